/* An NVML with made-up cards, to test the real binding against: compiled by tests/devices/test_devices_nvml_library.py.
 * FAKE_NVML in the environment says which cards there are, or how the library fails.
 * -DWITHOUT_V2 leaves out version 2 of the memory call, as drivers before R510 do. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } Memory2;
typedef struct {
    unsigned int multiprocessors, copy, decoder, encoder, jpeg, ofa, gpu_slices, compute_slices;
    unsigned long long memory_mb;
} Attributes;

typedef struct { unsigned int pid; unsigned long long used; unsigned int gi, ci; } Process;

#define MIB (1ULL << 20)
enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, UNLOADED = 9, LOST = 15, MISMATCH = 18, BAD_VERSION = 25 };

typedef struct Device {
    const char *name, *uuid;
    int major, minor, cores;
    unsigned long long total, reserved, free;
    int mig, multiprocessors, gi, ci; /* mig: 1 in MIG mode, 0 not, -1 the card knows no MIG, 2 a slice */
    struct Device *slices[4];
} Device;

static Device slice_a = {"NVIDIA H100 80GB HBM3 MIG 1g.10gb", "MIG-11111111-aaaa", 9, 0, 0,
                         9984 * MIB, 64 * MIB, 9000 * MIB, 2, 16, 7, 0, {0}};
static Device slice_b = {"NVIDIA H100 80GB HBM3 MIG 3g.40gb", "MIG-22222222-bbbb", 9, 0, 0,
                         40448 * MIB, 64 * MIB, 40300 * MIB, 2, 60, 2, 0, {0}};
static Device a100 = {"NVIDIA A100-SXM4-40GB", "GPU-a100a100-0000", 8, 0, 6912,
                      40960 * MIB, 520 * MIB, 30000 * MIB, 0, 0, 0, 0, {0}};
static Device ada = {"NVIDIA GeForce RTX 4090", "GPU-40904090-0000", 8, 9, 16384,
                     24564 * MIB, 491 * MIB, 24000 * MIB, -1, 0, 0, 0, {0}};
static Device hopper = {"NVIDIA H100 80GB HBM3", "GPU-h100h100-0000", 9, 0, 16896,
                        81559 * MIB, 481 * MIB, 0, 1, 0, 0, 0, {&slice_a, 0, &slice_b, 0}};
static Device unheard = {"NVIDIA Unheard 9000", "GPU-9000aaaa-0000", 8, 6, 1280,
                         8192 * MIB, 192 * MIB, 7900 * MIB, -1, 0, 0, 0, {0}};

static Device *cards[4];
static unsigned int count;

static int start(void) {
    const char *what = getenv("FAKE_NVML");
    if (!what) what = "";
    count = 0;
    if (!strcmp(what, "unloaded")) return UNLOADED;
    if (!strcmp(what, "mismatch")) return MISMATCH;
    if (!strcmp(what, "pair")) { cards[count++] = &a100; cards[count++] = &ada; }
    if (!strcmp(what, "mig")) { cards[count++] = &hopper; }
    if (!strcmp(what, "unheard")) { cards[count++] = &unheard; }
    if (!strcmp(what, "lost")) { cards[count++] = NULL; }
    return OK;
}

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return start(); }
int nvmlInit_v2(void) { return start(); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int error) { (void)error; return "an error of the fake"; }
int nvmlDeviceGetCount_v2(unsigned int *n) { *n = count; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, Device **d) {
    if (i >= count) return INVALID;
    *d = cards[i];
    return cards[i] ? OK : LOST;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, Device **d) {
    Device *all[] = {&slice_a, &slice_b, &a100, &ada, &hopper, &unheard};
    for (int i = 0; i < 6; i++)
        if (!strcmp(all[i]->uuid, uuid)) { *d = all[i]; return OK; }
    return NOT_FOUND;
}
/* FAKE_NVML_PROCESS: "PID BYTES" or "self BYTES" of the one process on every card; without it the driver tells of none. */
int nvmlDeviceGetComputeRunningProcesses_v3(Device *d, unsigned int *n, Process *found) {
    const char *told = getenv("FAKE_NVML_PROCESS");
    (void)d;
    if (!told) { *n = 0; return OK; }
    if (*n < 1 || !found) { *n = 1; return TOO_SMALL; }
    *n = 1;
    memset(found, 0, sizeof *found);
    found->pid = getpid();
    if (sscanf(told, "self %llu", &found->used) != 1) sscanf(told, "%u %llu", &found->pid, &found->used);
    return OK;
}
int nvmlDeviceGetName(Device *d, char *text, unsigned int size) { strncpy(text, d->name, size); return OK; }
int nvmlDeviceGetUUID(Device *d, char *text, unsigned int size) { strncpy(text, d->uuid, size); return OK; }
int nvmlDeviceGetCudaComputeCapability(Device *d, int *major, int *minor) {
    *major = d->major; *minor = d->minor; return OK;
}
int nvmlDeviceGetNumGpuCores(Device *d, unsigned int *n) {
    if (!d->cores) return UNSUPPORTED;
    *n = d->cores; return OK;
}
int nvmlDeviceGetMemoryInfo(Device *d, Memory *m) {
    m->total = d->total; m->free = d->free; m->used = d->total - d->free; return OK;
}
#ifndef WITHOUT_V2
int nvmlDeviceGetMemoryInfo_v2(Device *d, Memory2 *m) {
    if ((m->version >> 24) != 2) return BAD_VERSION;
    m->total = d->total; m->reserved = d->reserved; m->free = d->free; m->used = d->total - d->reserved - d->free;
    return OK;
}
#endif
int nvmlDeviceGetMigMode(Device *d, unsigned int *current, unsigned int *pending) {
    if (d->mig < 0) return UNSUPPORTED;
    *current = *pending = (d->mig == 1); return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(Device *d, unsigned int *n) { *n = d->mig == 1 ? 4 : 0; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(Device *d, unsigned int i, Device **slice) {
    if (i >= 4 || !d->slices[i]) return NOT_FOUND;
    *slice = d->slices[i]; return OK;
}
int nvmlDeviceGetGpuInstanceId(Device *d, unsigned int *id) { *id = d->gi; return d->mig == 2 ? OK : UNSUPPORTED; }
int nvmlDeviceGetComputeInstanceId(Device *d, unsigned int *id) { *id = d->ci; return d->mig == 2 ? OK : UNSUPPORTED; }
int nvmlDeviceGetAttributes_v2(Device *d, Attributes *a) {
    if (d->mig != 2) return UNSUPPORTED;
    memset(a, 0, sizeof *a);
    a->multiprocessors = d->multiprocessors; a->memory_mb = d->total / MIB;
    return OK;
}
