"""What a plan says in sentences: the split, its lead, what it lacks, how sure it is, what it saves.

The numbers are the plan's; this module must not compute new ones beyond ratios of them.
"""

from math import ceil, isinf

from kvsim.plan.layouts import Layout
from kvsim.plan.probe import Probe
from kvsim.plan.result import Plan, run_id
from kvsim.plan.run_length import FILLING_SHARE_MAX
from kvsim.plan.search import TOLERANCE, Found


def findings(plan: Plan) -> list[str]:
    """Sentences for terminal and report; the first is the headline."""
    sentences = [_headline(plan), _lead(plan), *_binding(plan), *_close(plan), _sureness(plan), *_money(plan)]
    return [sentence for sentence in sentences if sentence]


def _headline(plan: Plan) -> str:
    winner = plan.winner
    goodput = plan.found[winner].goodput_per_s
    slo = plan.ground.document["slo"]
    limits = " and ".join(f"{name.upper()} {slo[name]}" for name in ("ttft", "tpot") if slo[name] != "none")
    return (
        f"{winner} carries most: {goodput:.4g} req/s ({goodput / winner.gpus:.3g} per GPU) with "
        f"{plan.target:.0%} of the requests within {limits}."
    )


def _lead(plan: Plan) -> str:
    disaggregated, colocated = plan.best_disaggregated, plan.best_colocated
    if disaggregated is None:
        return "No disaggregated layout meets the limits." if any(not one.colocated for one in plan.found) else ""
    if colocated is None:
        return "No colocated layout meets the limits."
    ratio = plan.found[disaggregated].goodput_per_s / plan.found[colocated].goodput_per_s - 1
    first, second = (disaggregated, colocated) if ratio >= 0 else (colocated, disaggregated)
    clear = plan.found[first].low_per_s > plan.found[second].high_per_s
    verdict = "beyond doubt: the 95 % intervals are apart" if clear else "not beyond doubt: the 95 % intervals meet"
    return (
        f"Disaggregation carries {abs(ratio):.1%} {'more' if ratio >= 0 else 'less'} than the best colocated layout "
        f"({colocated}: {_span(plan.found[colocated])} against {_span(plan.found[disaggregated])}); {verdict}."
    )


def _binding(plan: Plan) -> list[str]:
    finalists = [layout for layout in (plan.best_disaggregated, plan.best_colocated) if layout is not None]
    sentences = []
    for layout in finalists:
        beyond = plan.found[layout].beyond
        if beyond is not None and beyond.binding is not None:
            sentences.append(
                f"What binds {layout}: {beyond.binding} ({beyond.binding_share:.0%} of the limits missed at "
                f"{beyond.rate_per_s:g} req/s)."
            )
    return sentences


def _close(plan: Plan) -> list[str]:
    """Layouts that bisection cannot tell from the winner."""
    best = plan.found[plan.winner].goodput_per_s
    close = [
        str(layout)
        for layout, found in plan.found.items()
        if layout != plan.winner and found.goodput_per_s >= best / (1 + TOLERANCE)
    ]
    if not close:
        return []
    return [f"Within {TOLERANCE:.0%} of it, and so not told apart from it: {'; '.join(sorted(close))}."]


def _sureness(plan: Plan) -> str:
    winner = plan.winner
    found = plan.found[winner]
    best = found.best
    assert best is not None, "a winner that meets no limit"
    if found.beyond is None:
        return (
            f"How sure: not at all. {winner} met the limits at every rate that was tried: runs of {best.requests:,} "
            "requests are too short for this load; take longer ones (--requests)."
        )
    text = (
        f"How sure: the goodput of {winner} lies in {_interval(found)} req/s (95 %, from the "
        f"attainment of {len(found.probes)} runs of {best.requests:,} requests, at the goodput over "
        f"{best.duration_s:.3g} s)"
    )
    others = plan.further.get(winner, ())
    if others:
        text += f"; with other seeds {_shares(others)} meet the limits there"
    else:
        text += "; a trace has no other seeds to check with"
    filling_s = max((plan.ground.variant.slo.ttft_ns or 0) / 1e9, best.e2e_mean_s or 0.0)
    arrivals_s = best.requests / best.rate_per_s
    text += (
        f". Runs start empty and take about {filling_s:.2g} s of the {arrivals_s:.3g} s of arrivals to fill up, so the "
        "goodput of a service that never ends is rather lower than higher"
    )
    if filling_s > FILLING_SHARE_MAX * arrivals_s:
        text += f"; --requests {ceil(best.rate_per_s * filling_s / FILLING_SHARE_MAX):,} would make them long enough"
    return f"{text}. Run: {run_id(winner, best)}."


def _money(plan: Plan) -> list[str]:
    saved, cost = plan.savings, plan.ground.cost
    disaggregated, colocated = plan.best_disaggregated, plan.best_colocated
    if saved is None or cost is None or disaggregated is None or colocated is None:
        return []
    money = cost.currency
    served = (
        f"At {saved.load_per_s:.4g} req/s within the same limits, {saved.disaggregated_gpus} GPUs ({disaggregated}) "
        f"stand against {saved.colocated_gpus} GPUs colocated"
    )
    if saved.payback_years is None:
        return [
            f"{served}: disaggregation saves no GPU, and the {saved.investment:,.0f} {money} that it costs never pay."
        ]
    return [
        f"{served}: {saved.gpu_saving_per_year:,.0f} {money} saved a year for an investment of {saved.investment:,.0f} "
        f"{money} ({saved.nic_investment:,.0f} NICs, {saved.integration:,.0f} integration): it pays back in "
        f"{_years(saved.payback_years)} and is worth {saved.net:+,.0f} {money} over {saved.years:g} years."
    ]


def _years(years: float) -> str:
    return f"{years:.2g} years" if years >= 1 else f"{12 * years:.2g} months"


def _shares(probes: tuple[Probe, ...]) -> str:
    return " and ".join(f"{each.attainment:.1%}" for each in probes)


def _span(found: Found) -> str:
    return f"{found.goodput_per_s:.4g} req/s in {_interval(found)}"


def _interval(found: Found) -> str:
    high = "?" if isinf(found.high_per_s) else f"{found.high_per_s:.4g}"
    low = f"{found.low_per_s:.4g}" if found.low_per_s else "?"
    return f"[{low}, {high}]"


def layout_text(layout: Layout) -> str:
    """A layout in few letters, for tables: ``10xtp2+3xtp4 pull``."""
    sides = [layout.prefill] if layout.decode is None else [layout.prefill, layout.decode]
    return "+".join(f"{side.workers}xtp{side.tensor_parallel}" for side in sides) + f" {layout.mode}"
