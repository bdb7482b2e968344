/* Network devices: frames there and back, and a load. */
#include "probe.h"

#define F_MAC (1ull << 5)
#define F_MTU (1ull << 3)
#define F_MRG_RXBUF (1ull << 15)
/* An EtherType for local experiments (IEEE 802): no host's stack answers it. */
enum { ETHERTYPE = 0x88b5, HEADER = 12, BUFFER = 2048, BUFFERS = 64 };

static uint8_t *rx_buffers;

static void post(struct queue *rx, uint32_t i)
{
    rx->desc[i] = (struct desc){ (uint64_t)(rx_buffers + (uint64_t)i * BUFFER), BUFFER, WRITE, 0 };
    offer(rx, i);
}

static struct device *start_net(void)
{
    struct device *device = device_of(ID_NET, word_number("nic=", 0));
    device->queue[0].interrupts = device->queue[1].interrupts = word_number("irq=", 0);
    start(device, F_EVENT_IDX | F_MAC | F_MTU | F_MRG_RXBUF, 2);
    return device;
}

static void copy(uint8_t *to, const uint8_t *from, uint64_t bytes)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

static void send(struct queue *tx, uint8_t *frame, uint32_t bytes)
{
    uint32_t head, len;
    tx->desc[0] = (struct desc){ (uint64_t)frame, HEADER + bytes, 0, 0 };
    offer(tx, 0);
    kick(tx);
    while (!used(tx, &head, &len))
        relax();
}

/* mode=net: sends one frame that says hello, then sends n= frames of our EtherType back, their
 * addresses swapped; frames of other kinds are passed over. */
void net(void)
{
    struct device *device = start_net();
    struct queue *rx = &device->queue[0], *tx = &device->queue[1];
    uint8_t mac[6];
    for (int i = 0; i < 6; i++)
        mac[i] = *(volatile uint8_t *)(device->base + 0x100 + i);
    put("probe: mac ");
    for (int i = 0; i < 6; i++)
        out8(0x3f8, "0123456789abcdef"[mac[i] >> 4]), out8(0x3f8, "0123456789abcdef"[mac[i] & 15]);
    put("\nprobe: features ");
    put_hex(device->features);
    put("\n");

    rx_buffers = memory(BUFFERS * BUFFER, 4096);
    for (uint32_t i = 0; i < BUFFERS; i++)
        post(rx, i);
    kick(rx);

    uint8_t *frame = memory(65536 + 64, 4096);
    fill(frame + HEADER, 0xff, 6);
    copy(frame + HEADER + 6, mac, 6);
    frame[HEADER + 12] = ETHERTYPE >> 8;
    frame[HEADER + 13] = ETHERTYPE & 0xff;
    copy(frame + HEADER + 14, (const uint8_t *)"hello from the probe", 20);
    send(tx, frame, 60);
    put("probe: hello sent\n");

    uint64_t wanted = word_number("n=", 10), echoed = 0, bytes = 0;
    while (echoed < wanted) {
        uint32_t head, len;
        while (!used(rx, &head, &len))
            relax();
        /* A frame in several buffers: they are used one behind the other. */
        uint8_t *buffer = rx_buffers + (uint64_t)head * BUFFER;
        uint32_t total = len;
        uint16_t parts = *(uint16_t *)(buffer + 10);
        copy(frame, buffer, len);
        post(rx, head);
        for (uint16_t i = 1; i < parts; i++) {
            if (!used(rx, &head, &len))
                fail("a frame's buffers did not become visible together");
            if (total + len > 65536)
                fail("too long a frame");
            copy(frame + total, rx_buffers + (uint64_t)head * BUFFER, len);
            total += len;
            post(rx, head);
        }
        kick(rx);
        if (frame[HEADER + 12] != ETHERTYPE >> 8 || frame[HEADER + 13] != (ETHERTYPE & 0xff))
            continue;
        copy(frame + HEADER, frame + HEADER + 6, 6);
        copy(frame + HEADER + 6, mac, 6);
        fill(frame, 0, HEADER);
        send(tx, frame, total - HEADER);
        echoed++;
        bytes += total - HEADER;
    }
    put("probe: echoed ");
    put_dec(echoed);
    put(" frames, ");
    put_dec(bytes);
    put(" bytes\n");
    if (rx->interrupts) {
        put("probe: interrupts ");
        put_dec(irq_count[device->irq]);
        put("\n");
    }
    put("probe: net done\n");
}

/* mode=netbench: sends n= frames of bs= bytes. */
void net_bench(void)
{
    struct device *device = start_net();
    struct queue *tx = &device->queue[1];
    uint64_t n = word_number("n=", 100000), bs = word_number("bs=", 64);
    if (bs < 14 || bs > 1514)
        fail("bs= must be 14 to 1514");
    uint8_t *frame = memory(2048, 4096);
    fill(frame + HEADER, 0xff, 6);
    frame[HEADER + 6] = 2;
    frame[HEADER + 12] = ETHERTYPE >> 8;
    frame[HEADER + 13] = ETHERTYPE & 0xff;
    for (uint32_t i = 0; i < tx->size; i++)
        tx->desc[i] = (struct desc){ (uint64_t)frame, HEADER + bs, 0, 0 };
    put("probe: begin\n");
    uint64_t begin = ticks(), sent = 0, done = 0;
    while (done < n) {
        while (sent < n && sent - done < tx->size) {
            offer(tx, sent % tx->size);
            sent++;
            if (sent % 32 == 0)
                kick(tx);
        }
        kick(tx);
        uint32_t head, len;
        while (!used(tx, &head, &len))
            relax();
        do
            done++;
        while (used(tx, &head, &len));
    }
    uint64_t end = ticks();
    put("probe: end, ticks ");
    put_dec(end - begin);
    put(", kicks ");
    put_dec(tx->kicks);
    put("\n");
}
