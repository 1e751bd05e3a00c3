/* A stand-in for libcuda: the calls that transport cuda_ipc makes, with what the documentation says that they refuse.
 *
 * Memory of a "GPU" is a memory file. Its device address is mapped without any rights, so that a processor that touches
 * it crashes as it would (or reads rubbish) on a real GPU; copies, made by a thread for each stream, use another mapping
 * of the same file, which tests see too (fakeHostView). A handle names process, descriptor and inode, and is opened
 * through /proc; as in CUDA the process that made it cannot. GPUs are numbered as CUDA_VISIBLE_DEVICES says, "0,1" where it
 * does not; number 9 cannot access the others, 7 and 8 are MIG instances of one. fakeFailNext makes a call fail.
 *
 * With WITH_CUDA_H the prototypes below are held against those of the vendor's header. */

#define _GNU_SOURCE
#ifdef WITH_CUDA_H
#include <cuda.h>
#undef cuMemcpyBatchAsync /* the entry of 12.8 is meant, not the one of 13 */
#else
typedef enum { CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1, CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3, CUDA_ERROR_NO_DEVICE = 100, CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_CONTEXT = 201, CUDA_ERROR_MAP_FAILED = 205, CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_NOT_FOUND = 500, CUDA_ERROR_NOT_READY = 600, CUDA_ERROR_ILLEGAL_ADDRESS = 700,
    CUDA_ERROR_NOT_SUPPORTED = 801 } CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct { char bytes[16]; } CUuuid;
typedef struct { char reserved[64]; } CUipcMemHandle;
typedef enum { CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9 } CUpointer_attribute;
typedef struct { int type; int id; } CUmemLocation;
typedef struct { int srcAccessOrder; CUmemLocation srcLocHint, dstLocHint; unsigned int flags; } CUmemcpyAttributes;
#endif

#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

/* What the Python side passes as plain numbers and structures. */
_Static_assert(sizeof(CUipcMemHandle) == 64 && sizeof(CUuuid) == 16 && sizeof(CUdeviceptr) == 8, "sizes");
_Static_assert(sizeof(CUmemcpyAttributes) == 24 && offsetof(CUmemcpyAttributes, flags) == 20, "attributes of a copy");
#ifdef WITH_CUDA_H
_Static_assert(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL == 9 && CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS == 1, "constants");
_Static_assert(CU_STREAM_NON_BLOCKING == 1 && (CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING) == 3, "constants");
_Static_assert(CU_MEMCPY_SRC_ACCESS_ORDER_STREAM == 1 && CUDA_ERROR_NOT_FOUND == 500, "constants");
_Static_assert(CUDA_ERROR_NOT_SUPPORTED == 801 && CUDA_ERROR_INVALID_CONTEXT == 201, "constants");
#endif

#define DEVICES_MAX 10
#define NEST_MAX 8
#define ALIGNED(bytes) (((bytes) + 0x1fffff) & ~(size_t)0x1fffff)

typedef struct Allocation {
    struct Allocation *next;
    char *device, *host;   /* two mappings of one file */
    size_t size, mapped;
    int fd, gpu, opens;    /* fd is -1 for what another process has exported; opens counts those */
    int exportable;
    ino_t inode;
} Allocation;

typedef struct { pid_t pid; int fd, gpu; ino_t inode; size_t size; char magic[4]; } Exported;

struct CUctx_st { int gpu, retained; };
struct CUevent_st { uint64_t reached; struct CUstream_st *stream; uint64_t number; int recorded; };

typedef struct Work { struct Work *next; char *to; const char *from; size_t size; } Work;

struct CUstream_st {
    pthread_t thread;
    Work *first, *last;
    uint64_t queued, done;
    int ending;
    struct CUctx_st *context;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static Allocation *allocations;
static struct CUctx_st contexts[DEVICES_MAX];
static int visible[DEVICES_MAX], visible_count = -1, exportable = 1, batches = 1, copies, batch_calls;
static unsigned int delay_us;
static char failing[64];
static int failing_with;
static __thread CUcontext stack[NEST_MAX];
static __thread int depth;

#define MAY_FAIL() do { int fail_ = fails(__func__); if (fail_) return (CUresult)fail_; } while (0)
#define NEEDS_CONTEXT() do { MAY_FAIL(); if (depth == 0) return CUDA_ERROR_INVALID_CONTEXT; } while (0)

static int fails(const char *function)
{
    int with = 0;
    pthread_mutex_lock(&lock);
    if (failing_with && strcmp(failing, function) == 0) {
        with = failing_with;
        failing_with = 0;
    } else if (visible_count < 0 && strcmp(function, "cuInit") != 0) {
        with = CUDA_ERROR_NOT_INITIALIZED;
    }
    pthread_mutex_unlock(&lock);
    return with;
}

/* --- for tests ---------------------------------------------------------------------------------------------------- */

void fakeFailNext(const char *function, int with) { snprintf(failing, sizeof failing, "%s", function); failing_with = with; }
void fakeDelay(unsigned int us) { delay_us = us; }
void fakeExportable(int yes) { exportable = yes; }
void fakeBatches(int yes) { batches = yes; }
int fakeCopies(void) { return copies; }
int fakeBatchCalls(void) { return batch_calls; }

int fakeOpened(void)
{
    int opened = 0;
    pthread_mutex_lock(&lock);
    for (Allocation *at = allocations; at; at = at->next)
        opened += at->opens;
    pthread_mutex_unlock(&lock);
    return opened;
}

int fakeRetained(void)
{
    int retained = 0;
    for (int gpu = 0; gpu < DEVICES_MAX; gpu++)
        retained += contexts[gpu].retained;
    return retained;
}

/* The lock is held. */
static Allocation *around(CUdeviceptr address)
{
    for (Allocation *at = allocations; at; at = at->next)
        if (address >= (CUdeviceptr)(uintptr_t)at->device && address < (CUdeviceptr)(uintptr_t)at->device + at->size)
            return at;
    return NULL;
}

void *fakeHostView(CUdeviceptr address)
{
    pthread_mutex_lock(&lock);
    Allocation *found = around(address);
    pthread_mutex_unlock(&lock);
    return found ? found->host + (address - (CUdeviceptr)(uintptr_t)found->device) : NULL;
}

/* --- devices ------------------------------------------------------------------------------------------------------ */

static const char *name_of(int error)
{
    switch (error) {
    case CUDA_ERROR_INVALID_VALUE: return "CUDA_ERROR_INVALID_VALUE";
    case CUDA_ERROR_OUT_OF_MEMORY: return "CUDA_ERROR_OUT_OF_MEMORY";
    case CUDA_ERROR_NOT_INITIALIZED: return "CUDA_ERROR_NOT_INITIALIZED";
    case CUDA_ERROR_NO_DEVICE: return "CUDA_ERROR_NO_DEVICE";
    case CUDA_ERROR_INVALID_DEVICE: return "CUDA_ERROR_INVALID_DEVICE";
    case CUDA_ERROR_INVALID_CONTEXT: return "CUDA_ERROR_INVALID_CONTEXT";
    case CUDA_ERROR_MAP_FAILED: return "CUDA_ERROR_MAP_FAILED";
    case CUDA_ERROR_INVALID_HANDLE: return "CUDA_ERROR_INVALID_HANDLE";
    case CUDA_ERROR_NOT_FOUND: return "CUDA_ERROR_NOT_FOUND";
    case CUDA_ERROR_ILLEGAL_ADDRESS: return "CUDA_ERROR_ILLEGAL_ADDRESS";
    case CUDA_ERROR_NOT_SUPPORTED: return "CUDA_ERROR_NOT_SUPPORTED";
    default: return NULL;
    }
}

CUresult cuGetErrorName(CUresult error, const char **text)
{
    *text = name_of(error);
    return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuInit(unsigned int flags)
{
    MAY_FAIL();
    if (flags)
        return CUDA_ERROR_INVALID_VALUE;
    const char *text = getenv("CUDA_VISIBLE_DEVICES");
    pthread_mutex_lock(&lock);
    visible_count = 0;
    for (text = text ? text : "0,1"; *text && visible_count < DEVICES_MAX; text++)
        if (*text >= '0' && *text <= '9')
            visible[visible_count++] = *text - '0';
    for (int gpu = 0; gpu < DEVICES_MAX; gpu++)
        contexts[gpu].gpu = gpu;
    int none = visible_count == 0;
    visible_count = none ? -1 : visible_count;
    pthread_mutex_unlock(&lock);
    return none ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count)
{
    MAY_FAIL();
    *count = visible_count;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    MAY_FAIL();
    if (ordinal < 0 || ordinal >= visible_count)
        return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

static int place_of(int gpu) { return gpu == 8 ? 7 : gpu; }

CUresult cuDeviceGetPCIBusId(char *text, int length, CUdevice device)
{
    MAY_FAIL();
    if (device < 0 || device >= visible_count)
        return CUDA_ERROR_INVALID_DEVICE;
    snprintf(text, (size_t)length, "0000:%X:00.0", 0x3A + place_of(visible[device]));
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetByPCIBusId(CUdevice *device, const char *text)
{
    MAY_FAIL();
    unsigned int domain, bus, slot;
    if (sscanf(text, "%x:%x:%x.0", &domain, &bus, &slot) == 3)
        for (int ordinal = 0; ordinal < visible_count; ordinal++)
            if (domain == 0 && slot == 0 && bus == 0x3Au + (unsigned int)place_of(visible[ordinal])) {
                *device = ordinal;
                return CUDA_SUCCESS;
            }
    return CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
    MAY_FAIL();
    if (device < 0 || device >= visible_count)
        return CUDA_ERROR_INVALID_DEVICE;
    memset(uuid, 'G', sizeof *uuid);
    uuid->bytes[15] = (char)visible[device];
    return CUDA_SUCCESS;
}

CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice other)
{
    MAY_FAIL();
    if (device < 0 || device >= visible_count || other < 0 || other >= visible_count)
        return CUDA_ERROR_INVALID_DEVICE;
    *can = device != other && visible[device] != 9 && visible[other] != 9;
    return CUDA_SUCCESS;
}

/* --- contexts ----------------------------------------------------------------------------------------------------- */

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    MAY_FAIL();
    if (device < 0 || device >= visible_count)
        return CUDA_ERROR_INVALID_DEVICE;
    *context = &contexts[visible[device]];
    __atomic_add_fetch(&(*context)->retained, 1, __ATOMIC_SEQ_CST);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    MAY_FAIL();
    if (device < 0 || device >= visible_count || contexts[visible[device]].retained < 1)
        return CUDA_ERROR_INVALID_DEVICE;
    __atomic_sub_fetch(&contexts[visible[device]].retained, 1, __ATOMIC_SEQ_CST);
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent_v2(CUcontext context)
{
    MAY_FAIL();
    if (context < contexts || context >= contexts + DEVICES_MAX || !context->retained || depth == NEST_MAX)
        return CUDA_ERROR_INVALID_CONTEXT;
    stack[depth++] = context;
    return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent_v2(CUcontext *context)
{
    NEEDS_CONTEXT();
    *context = stack[--depth];
    return CUDA_SUCCESS;
}

/* --- memory ------------------------------------------------------------------------------------------------------- */

/* Map a file and remember it. The lock is held. */
static Allocation *remember(int fd, size_t size, int gpu, ino_t inode)
{
    Allocation *made = calloc(1, sizeof *made);
    made->mapped = ALIGNED(size);
    made->device = mmap(NULL, made->mapped, PROT_NONE, MAP_SHARED, fd, 0);
    made->host = mmap(NULL, made->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (made->device == MAP_FAILED || made->host == MAP_FAILED) {
        free(made);
        return NULL;
    }
    made->size = size;
    made->fd = -1;
    made->gpu = gpu;
    made->exportable = exportable;
    made->inode = inode;
    made->next = allocations;
    allocations = made;
    return made;
}

static void forget(Allocation *gone)
{
    for (Allocation **at = &allocations; *at; at = &(*at)->next)
        if (*at == gone) {
            *at = gone->next;
            break;
        }
    munmap(gone->device, gone->mapped);
    munmap(gone->host, gone->mapped);
    if (gone->fd >= 0)
        close(gone->fd);
    free(gone);
}

CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t size)
{
    NEEDS_CONTEXT();
    struct stat status;
    if (!size)
        return CUDA_ERROR_INVALID_VALUE;
    int fd = memfd_create("fake-gpu", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)ALIGNED(size)) || fstat(fd, &status))
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    Allocation *made = remember(fd, size, stack[depth - 1]->gpu, status.st_ino);
    if (made) {
        made->fd = fd;
        *address = (CUdeviceptr)(uintptr_t)made->device;
    }
    pthread_mutex_unlock(&lock);
    return made ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemFree_v2(CUdeviceptr address)
{
    NEEDS_CONTEXT();
    pthread_mutex_lock(&lock);
    Allocation *found = around(address);
    int valid = found && found->fd >= 0 && address == (CUdeviceptr)(uintptr_t)found->device;
    if (valid)
        forget(found);
    pthread_mutex_unlock(&lock);
    return valid ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr address)
{
    NEEDS_CONTEXT();
    pthread_mutex_lock(&lock);
    Allocation *found = around(address);
    int gpu = found ? found->gpu : -1;
    pthread_mutex_unlock(&lock);
    for (int ordinal = 0; ordinal < visible_count; ordinal++)
        if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL && visible[ordinal] == gpu) {
            *(int *)data = ordinal;
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr *begin, size_t *size, CUdeviceptr address)
{
    NEEDS_CONTEXT();
    pthread_mutex_lock(&lock);
    Allocation *found = around(address);
    if (found) {
        *begin = (CUdeviceptr)(uintptr_t)found->device;
        *size = found->size;
    }
    pthread_mutex_unlock(&lock);
    return found ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

CUresult cuIpcGetMemHandle(CUipcMemHandle *handle, CUdeviceptr begin)
{
    NEEDS_CONTEXT();
    Exported exported = {.pid = getpid(), .magic = "fake"};
    pthread_mutex_lock(&lock);
    Allocation *found = around(begin);
    /* the documentation asks for the begin of an allocation; what another process has exported cannot be passed on */
    int valid = found && found->exportable && found->fd >= 0 && begin == (CUdeviceptr)(uintptr_t)found->device;
    if (valid) {
        exported.fd = found->fd;
        exported.gpu = found->gpu;
        exported.inode = found->inode;
        exported.size = found->size;
    }
    pthread_mutex_unlock(&lock);
    if (!valid)
        return CUDA_ERROR_INVALID_VALUE;
    memset(handle, 0, sizeof *handle);
    memcpy(handle, &exported, sizeof exported);
    return CUDA_SUCCESS;
}

CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *address, CUipcMemHandle handle, unsigned int flags)
{
    NEEDS_CONTEXT();
    Exported exported;
    char path[64];
    struct stat status;
    memcpy(&exported, &handle, sizeof exported);
    if (flags != 1)
        return CUDA_ERROR_INVALID_VALUE;
    if (memcmp(exported.magic, "fake", 4) != 0)
        return CUDA_ERROR_INVALID_HANDLE;
    if (exported.pid == getpid())
        return CUDA_ERROR_INVALID_CONTEXT;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)exported.pid, exported.fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return CUDA_ERROR_INVALID_HANDLE;
    int same = fstat(fd, &status) == 0 && status.st_ino == exported.inode;
    Allocation *found = NULL;
    pthread_mutex_lock(&lock);
    for (Allocation *at = allocations; same && at; at = at->next)
        if (at->fd < 0 && at->inode == exported.inode)
            found = at;
    if (same && !found)
        found = remember(fd, exported.size, exported.gpu, exported.inode);
    if (found) {
        found->opens++;
        *address = (CUdeviceptr)(uintptr_t)found->device;
    }
    pthread_mutex_unlock(&lock);
    close(fd);
    return found ? CUDA_SUCCESS : same ? CUDA_ERROR_MAP_FAILED : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuIpcCloseMemHandle(CUdeviceptr begin)
{
    NEEDS_CONTEXT();
    pthread_mutex_lock(&lock);
    Allocation *found = around(begin);
    int valid = found && found->opens && begin == (CUdeviceptr)(uintptr_t)found->device;
    if (valid && --found->opens == 0)
        forget(found);
    pthread_mutex_unlock(&lock);
    return valid ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* --- streams, events, copies -------------------------------------------------------------------------------------- */

static void *work(void *of)
{
    CUstream stream = of;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!stream->first && !stream->ending)
            pthread_cond_wait(&changed, &lock);
        Work *next = stream->first;
        if (!next)
            break;
        stream->first = next->next;
        unsigned int wait_us = delay_us;
        pthread_mutex_unlock(&lock);
        if (wait_us)
            usleep(wait_us);
        memcpy(next->to, next->from, next->size);
        free(next);
        pthread_mutex_lock(&lock);
        stream->done++;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

CUresult cuStreamCreate(CUstream *stream, unsigned int flags)
{
    NEEDS_CONTEXT();
    if (flags != 1)
        return CUDA_ERROR_INVALID_VALUE;
    *stream = calloc(1, sizeof **stream);
    (*stream)->context = stack[depth - 1];
    return pthread_create(&(*stream)->thread, NULL, work, *stream) ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

/* Sleep until so much is done. */
static void await(CUstream stream, uint64_t number)
{
    pthread_mutex_lock(&lock);
    while (stream->done < number)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

CUresult cuStreamSynchronize(CUstream stream)
{
    NEEDS_CONTEXT();
    await(stream, stream->queued);
    return CUDA_SUCCESS;
}

CUresult cuStreamDestroy_v2(CUstream stream)
{
    NEEDS_CONTEXT();
    pthread_mutex_lock(&lock);
    stream->ending = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    pthread_join(stream->thread, NULL);
    free(stream);
    return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent *event, unsigned int flags)
{
    NEEDS_CONTEXT();
    if (flags != 3)
        return CUDA_ERROR_INVALID_VALUE;
    *event = calloc(1, sizeof **event);
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy_v2(CUevent event)
{
    NEEDS_CONTEXT();
    free(event);
    return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent event, CUstream stream)
{
    NEEDS_CONTEXT();
    if (!stream || stream->context != stack[depth - 1])
        return CUDA_ERROR_INVALID_HANDLE;
    event->stream = stream;
    event->number = stream->queued;
    event->recorded = 1;
    return CUDA_SUCCESS;
}

CUresult cuEventSynchronize(CUevent event)
{
    NEEDS_CONTEXT();
    if (!event->recorded)
        return CUDA_SUCCESS; /* as documented: nothing was captured */
    await(event->stream, event->number);
    return CUDA_SUCCESS;
}

/* Where the processor finds these bytes: other mapping of a GPU's memory, or memory of the CPU. NULL if they lie partly
 * in a GPU's allocation. The lock is held. */
static char *reachable(CUdeviceptr address, size_t size, int *on_gpu)
{
    Allocation *found = around(address);
    *on_gpu = found != NULL;
    if (!found)
        return (char *)(uintptr_t)address;
    size_t offset = (size_t)(address - (CUdeviceptr)(uintptr_t)found->device);
    return size <= found->size - offset ? found->host + offset : NULL;
}

static CUresult queue(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream, int gpus_only)
{
    int target_on_gpu, source_on_gpu;
    pthread_mutex_lock(&lock);
    char *target = reachable(to, size, &target_on_gpu), *source = reachable(from, size, &source_on_gpu);
    int valid = stream && target && source && size && !(gpus_only && !(target_on_gpu && source_on_gpu));
    if (valid) {
        Work *made = calloc(1, sizeof *made);
        *made = (Work){NULL, target, source, size};
        if (stream->first)
            stream->last->next = made;
        else
            stream->first = made;
        stream->last = made;
        stream->queued++;
        copies++;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return valid ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream)
{
    NEEDS_CONTEXT();
    return queue(to, from, size, stream, 0);
}

/* Stricter than the documentation: copies from and to memory of the CPU are not batched here. */
CUresult cuMemcpyBatchAsync(CUdeviceptr *to, CUdeviceptr *from, size_t *sizes, size_t count,
    CUmemcpyAttributes *attributes, size_t *firsts, size_t attributes_count, size_t *failed, CUstream stream)
{
    NEEDS_CONTEXT();
    if (!batches)
        return CUDA_ERROR_NOT_SUPPORTED;
    *failed = SIZE_MAX;
    if (!stream || !count || attributes_count != 1 || firsts[0] != 0 || attributes[0].srcAccessOrder != 1
        || attributes[0].flags || attributes[0].srcLocHint.type || attributes[0].dstLocHint.type)
        return CUDA_ERROR_INVALID_VALUE;
    batch_calls++;
    for (size_t at = 0; at < count; at++)
        if (queue(to[at], from[at], sizes[at], stream, 1)) {
            *failed = at;
            return CUDA_ERROR_INVALID_VALUE;
        }
    return CUDA_SUCCESS;
}
