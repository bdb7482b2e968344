/* virtio-mmio, version 2, with split queues. */
#include "probe.h"

enum {
    MAGIC = 0x00, VERSION = 0x04, DEVICE_ID = 0x08, FEATURES = 0x10, FEATURES_SEL = 0x14,
    DRIVER_FEATURES = 0x20, DRIVER_FEATURES_SEL = 0x24, QUEUE_SEL = 0x30, QUEUE_MAX = 0x34,
    QUEUE_NUM = 0x38, QUEUE_READY = 0x44, NOTIFY = 0x50, STATUS = 0x70, QUEUE_DESC = 0x80,
    QUEUE_AVAIL = 0x90, QUEUE_USED = 0xa0,
};

struct device devices[MAX_DEVICES];
uint32_t device_count;

static void add(uint64_t base, uint32_t irq)
{
    if (device_count == MAX_DEVICES || read32(base + MAGIC) != 0x74726976)
        return;
    if (read32(base + VERSION) != 2 || read32(base + DEVICE_ID) == 0)
        return;
    struct device *device = &devices[device_count++];
    device->base = base;
    device->irq = irq;
    device->id = read32(base + DEVICE_ID);
}

/* "virtio_mmio.device=4K@0xd0000000:5", as Linux takes it and Firecracker gives it. */
static void from_cmdline(void)
{
    for (const char *at = cmdline(); at && *at; at++) {
        const char *name = "virtio_mmio.device=", *here = at;
        while (*name && *here == *name)
            here++, name++;
        if (*name)
            continue;
        uint64_t size, base, irq;
        if (!number(&here, &size) || *here++ != 'K' || *here++ != '@')
            continue;
        if (number(&here, &base) && *here++ == ':' && number(&here, &irq))
            add(base, irq);
    }
}

/* In the DSDT: Memory32Fixed of 4 KiB, and right behind it an extended interrupt. */
static void from_acpi(void)
{
    struct acpi acpi;
    if (!acpi_find(&acpi))
        return;
    for (uint32_t i = 36; i + 21 <= acpi.dsdt_bytes; i++) {
        const uint8_t *at = acpi.dsdt + i;
        bool memory = at[0] == 0x86 && at[1] == 9 && at[2] == 0;
        bool interrupt = at[12] == 0x89 && at[13] == 6 && at[14] == 0 && at[16] == 1;
        if (memory && interrupt && *(const uint32_t *)(at + 8) == 0x1000)
            add(*(const uint32_t *)(at + 4), *(const uint32_t *)(at + 17));
    }
}

void find_devices(void)
{
    from_cmdline();
    if (!device_count)
        from_acpi();
}

struct device *device_of(uint32_t id, uint32_t nth)
{
    for (uint32_t i = 0; i < device_count; i++)
        if (devices[i].id == id && nth-- == 0)
            return &devices[i];
    fail(id == ID_NET ? "no such network device" : "no such disk");
}

uint32_t status(const struct device *device)
{
    return read32(device->base + STATUS);
}

static void write64(uint64_t at, const volatile void *value)
{
    write32(at, (uint64_t)value);
    write32(at + 4, (uint64_t)value >> 32);
}

static void start_queue(struct device *device, uint32_t index)
{
    struct queue *queue = &device->queue[index];
    uint64_t base = device->base;
    write32(base + QUEUE_SEL, index);
    uint32_t size = read32(base + QUEUE_MAX);
    if (size > 256)
        size = 256;
    if (!queue->desc) {
        queue->desc = memory(16 * 256, 4096);
        queue->avail = memory(6 + 2 * 256, 4096);
        queue->used = memory(6 + 8 * 256, 4096);
    }
    fill(queue->desc, 0, 16 * 256);
    fill((void *)queue->avail, 0, 6 + 2 * 256);
    fill((void *)queue->used, 0, 6 + 8 * 256);
    queue->base = base;
    queue->index = index;
    queue->size = size;
    queue->avail_idx = queue->used_idx = queue->told_idx = 0;
    queue->event_idx = device->features & F_EVENT_IDX;
    queue->kicks = 0;
    queue->avail[0] = queue->interrupts ? 0 : 1;
    queue->avail[2 + size] = queue->interrupts ? 0 : 0x4000;
    write32(base + QUEUE_NUM, size);
    write64(base + QUEUE_DESC, queue->desc);
    write64(base + QUEUE_AVAIL, queue->avail);
    write64(base + QUEUE_USED, queue->used);
    write32(base + QUEUE_READY, 1);
    if (read32(base + QUEUE_READY) != 1)
        fail("a queue was refused");
}

void start(struct device *device, uint64_t features, uint32_t queues)
{
    uint64_t base = device->base;
    write32(base + STATUS, 0);
    while (read32(base + STATUS) != 0)
        relax();
    /* One bit at a time: some devices refuse jumps. */
    write32(base + STATUS, ACKNOWLEDGE);
    write32(base + STATUS, ACKNOWLEDGE | DRIVER);
    uint64_t offered = 0;
    for (uint32_t half = 0; half < 2; half++) {
        write32(base + FEATURES_SEL, half);
        offered |= (uint64_t)read32(base + FEATURES) << 32 * half;
    }
    device->features = offered & (features | F_VERSION_1);
    for (uint32_t half = 0; half < 2; half++) {
        write32(base + DRIVER_FEATURES_SEL, half);
        write32(base + DRIVER_FEATURES, device->features >> 32 * half);
    }
    write32(base + STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    if (!(read32(base + STATUS) & FEATURES_OK))
        fail("FEATURES_OK was refused");
    for (uint32_t i = 0; i < queues; i++)
        start_queue(device, i);
    if (device->queue[0].interrupts)
        listen_irq(device->irq);
    write32(base + STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    if (status(device) & NEEDS_RESET)
        fail("the device could not start");
}

void offer(struct queue *queue, uint16_t head)
{
    queue->avail[2 + queue->avail_idx % queue->size] = head;
    __asm__ volatile("" ::: "memory");
    queue->avail[1] = ++queue->avail_idx;
}

/* Tells the device of what was offered since the last call, if it wants to be told. */
void kick(struct queue *queue)
{
    uint16_t new = queue->avail_idx, before = queue->told_idx;
    queue->told_idx = new;
    fence();
    if (queue->event_idx) {
        uint16_t event = queue->used[2 + 4 * queue->size];
        if ((uint16_t)(new - event - 1) >= (uint16_t)(new - before))
            return;
    } else if (queue->used[0] & 1) {
        return;
    }
    queue->kicks++;
    write32(queue->base + NOTIFY, queue->index);
}

bool pending(const struct queue *queue)
{
    return queue->used[1] != queue->used_idx;
}

bool used(struct queue *queue, uint32_t *head, uint32_t *len)
{
    if (!pending(queue))
        return false;
    __asm__ volatile("" ::: "memory");
    volatile uint32_t *entry =
        (volatile uint32_t *)(queue->used + 2) + 2 * (queue->used_idx % queue->size);
    *head = entry[0];
    *len = entry[1];
    queue->used_idx++;
    /* The next interrupt: at the next buffer, or so far away that it never comes. */
    queue->avail[2 + queue->size] = queue->used_idx + (queue->interrupts ? 0 : 0x4000);
    return true;
}
