/* Scattered copies and scatter/gather on stream sockets, for lists of ranges given as arrays of addresses and sizes.
 *
 * The interpreter lock is released for the whole of each call. Nothing is checked here but that the arrays agree: the
 * Python side has checked every range against registered memory before it calls. backends/transport/copying.py does
 * the same in plain Python where this could not be built.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define PIECES_MAX 1024 /* entries of one sendmsg or recvmsg: UIO_MAXIOV of Linux */

/* A call moves no more than the socket's buffer holds, so a longer list of pieces would be built in vain. */
#define CALL_BYTES (512 * 1024)

/* Sleep until this much has come, and not for every packet. */
#define RECEIVE_BYTES_MIN (128 * 1024)

static int same_count(const Py_buffer *first, const Py_buffer *second)
{
    if (first->len == second->len && first->len % 8 == 0)
        return 1;
    PyErr_SetString(PyExc_ValueError, "arrays of 64-bit entries with equal lengths expected");
    return 0;
}

/* copy(target_addresses, source_addresses, sizes_bytes, stop) -> ranges copied: memcpy one after the other, until the
 * first byte of `stop` is set by another thread. Source and target must not overlap. */
static PyObject *copy(PyObject *module, PyObject *args)
{
    Py_buffer targets, sources, sizes, stop;
    Py_ssize_t copied = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*y*y*y*", &targets, &sources, &sizes, &stop))
        return NULL;
    int valid = same_count(&targets, &sources) && same_count(&targets, &sizes);
    if (valid && stop.len == 0) {
        PyErr_SetString(PyExc_ValueError, "a byte to stop by expected");
        valid = 0;
    }
    if (valid) {
        const uint64_t *target = targets.buf, *source = sources.buf, *size = sizes.buf;
        const volatile unsigned char *stopped = stop.buf;
        Py_ssize_t count = targets.len / 8;
        Py_BEGIN_ALLOW_THREADS
        for (; copied < count && !*stopped; copied++)
            memcpy((void *)(uintptr_t)target[copied], (const void *)(uintptr_t)source[copied], (size_t)size[copied]);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&targets);
    PyBuffer_Release(&sources);
    PyBuffer_Release(&sizes);
    PyBuffer_Release(&stop);
    return valid ? PyLong_FromSsize_t(copied) : NULL;
}

/* Ranges that are still to move: from byte `done` of range `at` on. */
typedef struct {
    const uint64_t *address;
    const uint64_t *size;
    Py_ssize_t count, at;
    uint64_t done; /* bytes of range `at` */
    uint64_t left; /* bytes of all ranges */
} Cursor;

static size_t fill(const Cursor *cursor, struct iovec *pieces)
{
    size_t filled = 0;
    uint64_t skip = cursor->done, bytes = 0;
    for (Py_ssize_t i = cursor->at; i < cursor->count && filled < PIECES_MAX && bytes < CALL_BYTES; i++, skip = 0) {
        if (cursor->size[i] == skip)
            continue;
        pieces[filled].iov_base = (void *)(uintptr_t)(cursor->address[i] + skip);
        pieces[filled].iov_len = (size_t)(cursor->size[i] - skip);
        bytes += cursor->size[i] - skip;
        filled++;
    }
    return filled;
}

static void advance(Cursor *cursor, uint64_t moved)
{
    cursor->left -= moved;
    while (cursor->at < cursor->count && moved >= cursor->size[cursor->at] - cursor->done) {
        moved -= cursor->size[cursor->at] - cursor->done;
        cursor->at++;
        cursor->done = 0;
    }
    cursor->done += moved;
}

static void set_low_water(int fd, int *current, uint64_t left)
{
    int wanted = left < RECEIVE_BYTES_MIN ? (left ? (int)left : 1) : RECEIVE_BYTES_MIN;
    if (wanted != *current && setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &wanted, sizeof wanted) == 0)
        *current = wanted;
}

/* Move all ranges through the socket. Returns 0 at the end, else an errno; ETIMEDOUT after timeout_ms without any
 * progress, ECONNRESET where the other side has ended the stream. A signal does not interrupt it: its handler runs in
 * the main thread, and this is no main thread. */
static int stream(int fd, Cursor *cursor, int sending, int timeout_ms)
{
    struct iovec pieces[PIECES_MAX];
    struct msghdr message;
    struct pollfd ready = {.fd = fd, .events = sending ? POLLOUT : POLLIN};
    int low_water = 1, failure = 0;
    while (!failure) {
        memset(&message, 0, sizeof message);
        message.msg_iov = pieces;
        message.msg_iovlen = fill(cursor, pieces);
        if (message.msg_iovlen == 0)
            break;
        ssize_t moved = sending ? sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
                                : recvmsg(fd, &message, MSG_DONTWAIT);
        if (moved > 0) {
            advance(cursor, (uint64_t)moved);
        } else if (moved == 0) {
            failure = ECONNRESET;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (!sending)
                set_low_water(fd, &low_water, cursor->left);
            int found = poll(&ready, 1, timeout_ms);
            if (found == 0)
                failure = ETIMEDOUT;
            else if (found < 0 && errno != EINTR)
                failure = errno;
        } else if (errno != EINTR) {
            failure = errno;
        }
    }
    set_low_water(fd, &low_water, 0);
    return failure;
}

static PyObject *stream_call(PyObject *args, int sending)
{
    int fd, timeout_ms, failure = 0;
    Py_buffer addresses, sizes;
    if (!PyArg_ParseTuple(args, "iy*y*i", &fd, &addresses, &sizes, &timeout_ms))
        return NULL;
    int valid = same_count(&addresses, &sizes);
    if (valid) {
        Cursor cursor = {.address = addresses.buf, .size = sizes.buf, .count = addresses.len / 8};
        for (Py_ssize_t i = 0; i < cursor.count; i++)
            cursor.left += cursor.size[i];
        Py_BEGIN_ALLOW_THREADS
        failure = stream(fd, &cursor, sending, timeout_ms);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&addresses);
    PyBuffer_Release(&sizes);
    if (!valid)
        return NULL;
    if (failure) {
        errno = failure;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

/* send(fd, addresses, sizes_bytes, timeout_ms) */
static PyObject *send_ranges(PyObject *module, PyObject *args)
{
    (void)module;
    return stream_call(args, 1);
}

/* receive(fd, addresses, sizes_bytes, timeout_ms) */
static PyObject *receive_ranges(PyObject *module, PyObject *args)
{
    (void)module;
    return stream_call(args, 0);
}

static PyMethodDef methods[] = {
    {"copy", copy, METH_VARARGS, "copy(target_addresses, source_addresses, sizes_bytes, stop) -> ranges copied"},
    {"send", send_ranges, METH_VARARGS, "send(fd, addresses, sizes_bytes, timeout_ms)"},
    {"receive", receive_ranges, METH_VARARGS, "receive(fd, addresses, sizes_bytes, timeout_ms)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_copy", "Scattered copies with the interpreter lock released.", -1, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__copy(void)
{
    return PyModule_Create(&definition);
}
