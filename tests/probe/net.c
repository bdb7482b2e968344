/* Network devices: frames there and back, and a load. */
#include "probe.h"

#define F_CSUM (1ull << 0)
#define F_GUEST_CSUM (1ull << 1)
#define F_MAC (1ull << 5)
#define F_MTU (1ull << 3)
#define F_MRG_RXBUF (1ull << 15)
/* EtherTypes; EXPERIMENT is IEEE 802's for local use, which no host's stack answers. */
enum { IPV4 = 0x0800, ARP = 0x0806, EXPERIMENT = 0x88b5 };
enum { HEADER = 12, BUFFER = 2048, BUFFERS = 64, LONGEST = 65536 };

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
    uint64_t features = F_EVENT_IDX | F_MAC | F_MTU | F_MRG_RXBUF;
    if (word_number("csum=", 0))
        features |= F_CSUM | F_GUEST_CSUM;
    start(device, features, 2);
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

static void swap(uint8_t *a, uint8_t *b, uint32_t bytes)
{
    while (bytes--) {
        uint8_t byte = *a;
        *a++ = *b;
        *b++ = byte;
    }
}

/* Makes an answer of the frame in place: ARP says that every address is ours, UDP goes back to
 * where it came from (sums do not change when addresses and ports trade places, so that a checksum
 * that the host left open stays as open as it was). False: nothing to answer. */
static bool answer(uint8_t *frame, uint32_t bytes, const uint8_t *mac, bool *is_udp)
{
    uint16_t type = frame[12] << 8 | frame[13];
    uint8_t *packet = frame + 14;
    *is_udp = false;
    if (type == ARP && bytes >= 42 && packet[7] == 1) {
        packet[7] = 2;
        swap(packet + 8, packet + 18, 10);
        copy(packet + 8, mac, 6);
    } else if (type == IPV4 && bytes >= 42 && packet[9] == 17) {
        uint32_t header = (packet[0] & 15) * 4;
        bool first_fragment = !(packet[6] & 0x1f) && !packet[7];
        swap(packet + 12, packet + 16, 4);
        if (first_fragment)
            swap(packet + header, packet + header + 2, 2);
        *is_udp = true;
    } else {
        return false;
    }
    copy(frame, frame + 6, 6);
    copy(frame + 6, mac, 6);
    return true;
}

/* Waits until there is something to take: by interrupt, if that is wanted. */
static void wait_for_frame(struct device *device)
{
    struct queue *rx = &device->queue[0];
    for (;;) {
        uint32_t irqs = irq_count[device->irq];
        if (pending(rx))
            return;
        while (rx->interrupts && irq_count[device->irq] == irqs)
            relax();
    }
}

/* Takes one frame, with its header, out of however many buffers it came in; its length. */
static uint32_t receive(struct device *device, uint8_t *frame)
{
    struct queue *rx = &device->queue[0];
    uint32_t head, len, total = 0;
    uint16_t parts = 1;
    wait_for_frame(device);
    for (uint16_t i = 0; i < parts; i++) {
        if (!used(rx, &head, &len))
            fail("a frame's buffers did not become visible together");
        if (total + len > LONGEST)
            fail("too long a frame");
        copy(frame + total, rx_buffers + (uint64_t)head * BUFFER, len);
        total += len;
        post(rx, head);
        if (i == 0)
            parts = *(uint16_t *)(frame + 10);
    }
    kick(rx);
    return total;
}

/* mode=net: answers ARP, and sends n= UDP packets back to where they came from. */
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

    rx_buffers = memory(BUFFERS * BUFFER, 4096);
    uint8_t *frame = memory(LONGEST, 4096);
    for (uint32_t i = 0; i < BUFFERS; i++)
        post(rx, i);
    kick(rx);
    put("\nprobe: net ready\n");

    uint64_t wanted = word_number("n=", 10), echoed = 0, bytes = 0, open_sums = 0;
    while (echoed < wanted) {
        uint32_t total = receive(device, frame);
        bool is_udp;
        if (!answer(frame + HEADER, total - HEADER, mac, &is_udp))
            continue;
        open_sums += is_udp && frame[0] & 1; /* VIRTIO_NET_HDR_F_NEEDS_CSUM */
        frame[0] &= 1;
        send(tx, frame, total - HEADER);
        if (is_udp) {
            echoed++;
            bytes += total - HEADER;
        }
    }
    put("probe: echoed ");
    put_dec(echoed);
    put(" frames of ");
    put_dec(bytes);
    put(" bytes, checksums open ");
    put_dec(open_sums);
    if (rx->interrupts)
        put(irq_count[device->irq] ? "\nprobe: interrupts came" : "\nprobe: interrupts missing");
    put("\nprobe: net done\n");
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
    frame[HEADER + 12] = EXPERIMENT >> 8;
    frame[HEADER + 13] = EXPERIMENT & 0xff;
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
