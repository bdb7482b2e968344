/* Disks: integrity, a driver's mistake, and a load. */
#include "probe.h"

enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8 };
#define F_FLUSH (1ull << 9)

struct header {
    uint32_t type, reserved;
    uint64_t sector;
};

/* Everything a request needs beside its data; descriptors are 'slot * per' and following. */
struct slot {
    struct header header;
    volatile uint8_t status;
    uint8_t pad[47];
};

static struct slot *slots;

static bool writes_guest(uint32_t type)
{
    return type == IN || type == GET_ID;
}

/* Lays out and offers one request, its data in `segments` parts of `bytes` each. */
static void submit(struct queue *queue, uint32_t type, uint64_t sector, uint8_t *data,
                   uint32_t bytes, uint32_t segments)
{
    struct slot *slot = &slots[0];
    slot->header = (struct header){ type, 0, sector };
    slot->status = 0xff;
    uint32_t d = 0;
    queue->desc[d++] = (struct desc){ (uint64_t)&slot->header, 16, NEXT, 1 };
    for (uint32_t i = 0; i < segments; i++, d++)
        queue->desc[d] = (struct desc){ (uint64_t)(data + (uint64_t)i * bytes), bytes,
                                        NEXT | (writes_guest(type) ? WRITE : 0), d + 1 };
    queue->desc[d] = (struct desc){ (uint64_t)&slot->status, 1, WRITE, 0 };
    offer(queue, 0);
    kick(queue);
}

/* One request, waited for; its status, or 0xfe if the device gave up. */
static uint8_t request(struct device *device, uint32_t type, uint64_t sector, uint8_t *data,
                       uint32_t bytes, uint32_t segments)
{
    struct queue *queue = &device->queue[0];
    uint32_t irqs = queue->interrupts ? irq_count[device->irq] : 0;
    submit(queue, type, sector, data, bytes, segments);
    /* The interrupt first: a used buffer that was taken before the device looked at used_event
     * needs none any more. */
    while (queue->interrupts && irq_count[device->irq] == irqs)
        relax();
    if (queue->interrupts)
        write32(device->base + 0x64, read32(device->base + 0x60));
    uint32_t head, len;
    for (uint64_t spins = 1; !used(queue, &head, &len); spins++) {
        relax();
        if (spins % 10000 == 0 && status(device) & NEEDS_RESET)
            return 0xfe;
    }
    return slots[0].status;
}

static struct device *start_disk(uint32_t nth, bool interrupts)
{
    struct device *device = device_of(ID_BLOCK, nth);
    device->queue[0].interrupts = interrupts;
    start(device, F_EVENT_IDX | F_FLUSH, 1);
    if (!slots)
        slots = memory(sizeof(struct slot) * 256, 64);
    return device;
}

static uint64_t capacity(struct device *device)
{
    return read32(device->base + 0x100) | (uint64_t)read32(device->base + 0x104) << 32;
}

static void expect(uint8_t status, uint8_t expected, const char *what)
{
    if (status == expected)
        return;
    put("probe: status ");
    put_dec(status);
    put("\n");
    fail(what);
}

/* A pattern that tells each sector and byte from any other. */
static void paint(uint8_t *data, uint64_t bytes, uint64_t sector, uint64_t seed)
{
    for (uint64_t i = 0; i < bytes; i += 8)
        *(uint64_t *)(data + i) = (sector + i / 512) * 0x9e3779b97f4a7c15 ^ (i % 512) ^ seed << 32;
}

/* mode=blk: what the disk says of itself, what is on it, and what comes back of what is written.
 * disk=N, irq=1, sectors=N (read and hashed from 0), at=N (where 8 sectors are written). */
void blk(void)
{
    struct device *device = start_disk(word_number("disk=", 0), word_number("irq=", 0));
    uint8_t *data = memory(1 << 20, 4096), *back = memory(1 << 20, 4096);
    put("probe: capacity ");
    put_dec(capacity(device));
    put("\nprobe: features ");
    put_hex(device->features);
    expect(request(device, GET_ID, 0, data, 20, 1), 0, "GET_ID");
    data[20] = 0;
    put("\nprobe: id ");
    put((char *)data);

    uint64_t sectors = word_number("sectors=", 8);
    expect(request(device, IN, 0, data, 512, sectors), 0, "reading the disk's beginning");
    put("\nprobe: hash ");
    put_hex(fnv1a(data, 512 * sectors));

    uint64_t at = word_number("at=", 16), seed = word_number("seed=", 1);
    paint(data, 8 * 512, at, seed);
    uint8_t wrote = request(device, OUT, at, data, 1024, 4);
    put("\nprobe: wrote ");
    put_dec(wrote);
    if (wrote == 0) {
        expect(request(device, FLUSH, 0, 0, 0, 0), 0, "flushing");
        expect(request(device, IN, at, back, 4096, 1), 0, "reading back");
        for (uint32_t i = 0; i < 4096; i++)
            if (data[i] != back[i])
                fail("what was read is not what was written");
        put("\nprobe: written hash ");
        put_hex(fnv1a(back, 4096));
    }
    expect(request(device, IN, capacity(device), back, 512, 1), 1, "reading beyond the end");
    expect(request(device, IN, ~0ull / 512, back, 512, 1), 1, "reading where offsets wrap");
    expect(request(device, 77, 0, back, 512, 1), 2, "an unknown request");
    if (device->queue[0].interrupts) {
        put("\nprobe: interrupts ");
        put_dec(irq_count[device->irq]);
    }
    put("\nprobe: blk done\n");
}

/* mode=mistake: disk 0 gets an impossible available index; disk 1 goes on; a reset heals disk 0. */
void mistake(void)
{
    struct device *bad = start_disk(0, false), *good = start_disk(1, false);
    uint8_t *data = memory(4096, 4096);
    expect(request(bad, IN, 0, data, 512, 1), 0, "the first disk");
    expect(request(good, IN, 0, data, 512, 1), 0, "the second disk");
    bad->queue[0].avail[1] = bad->queue[0].avail_idx + 1000;
    write32(bad->base + 0x50, 0);
    uint64_t begin = ticks();
    while (!(status(bad) & NEEDS_RESET))
        if (ticks() - begin > 20000000000ull)
            fail("no NEEDS_RESET");
    put("probe: needs reset, interrupt status ");
    put_dec(read32(bad->base + 0x60));
    expect(request(good, IN, 0, data, 512, 1), 0, "the second disk, after the first one's end");
    put("\nprobe: the other disk goes on\n");
    start(bad, F_EVENT_IDX | F_FLUSH, 1);
    expect(request(bad, IN, 0, data, 512, 1), 0, "the first disk, after its reset");
    put("probe: mistake done\n");
}

/* mode=blkbench: n=REQUESTS bs=BYTES qd=DEPTH rw=read|write span=BYTES. Time is the reader's, from
 * "begin" to "end"; the time stamp counter's ticks are told too. */
void blk_bench(void)
{
    struct device *device = start_disk(word_number("disk=", 0), false);
    struct queue *queue = &device->queue[0];
    uint64_t n = word_number("n=", 100000), bs = word_number("bs=", 4096);
    uint64_t depth = word_number("qd=", 1), span = word_number("span=", 64 << 20);
    uint32_t type = word_is("rw=", "write") ? OUT : IN;
    uint64_t blocks = span / bs, seed = 88172645463325252ull;
    if (depth > 85 || depth * bs > 64 << 20)
        fail("qd= is too large");
    uint8_t *data = memory(depth * bs, 4096);
    for (uint64_t i = 0; i < depth; i++) {
        slots[i].header.type = type;
        uint16_t d = 3 * i;
        queue->desc[d] = (struct desc){ (uint64_t)&slots[i].header, 16, NEXT, d + 1 };
        queue->desc[d + 1] = (struct desc){ (uint64_t)(data + i * bs), bs,
                                            NEXT | (type == IN ? WRITE : 0), d + 2 };
        queue->desc[d + 2] = (struct desc){ (uint64_t)&slots[i].status, 1, WRITE, 0 };
    }
    put("probe: begin\n");
    uint64_t begin = ticks(), offered = 0, done = 0, free_slots = depth;
    uint16_t free_list[85];
    for (uint64_t i = 0; i < depth; i++)
        free_list[i] = i;
    while (done < n) {
        while (free_slots && offered < n) {
            uint16_t i = free_list[--free_slots];
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            slots[i].header.sector = seed % blocks * (bs / 512);
            slots[i].status = 0xff;
            offer(queue, 3 * i);
            offered++;
        }
        kick(queue);
        uint32_t head, len;
        while (!used(queue, &head, &len))
            relax();
        do {
            if (slots[head / 3].status)
                fail("a request failed");
            free_list[free_slots++] = head / 3;
            done++;
        } while (used(queue, &head, &len));
    }
    uint64_t end = ticks();
    put("probe: end, ticks ");
    put_dec(end - begin);
    put(", kicks ");
    put_dec(queue->kicks);
    put("\n");
}
