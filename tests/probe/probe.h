/* The probe guest's parts. It is a driver, and only as much of an operating system as that needs.
 *
 * Its words on the kernel command line, and its answers on the serial port, are in README.md.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- start.S ------------------------------------------------------------------------------- */
extern uint64_t boot_params, start_info;
extern volatile uint32_t irq_count[24];

/* --- machine.c: ports, memory-mapped registers, time, serial, how it ends ------------------- */
static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint32_t read32(uint64_t at)
{
    return *(volatile uint32_t *)at;
}

static inline void write32(uint64_t at, uint32_t value)
{
    *(volatile uint32_t *)at = value;
}

static inline uint64_t ticks(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

static inline void relax(void)
{
    __asm__ volatile("pause" ::: "memory");
}

static inline void fence(void)
{
    __asm__ volatile("mfence" ::: "memory");
}

void put(const char *text);
void put_dec(uint64_t value);
void put_hex(uint64_t value);
void *memory(uint64_t bytes, uint64_t align);
void fill(void *at, uint8_t value, uint64_t bytes);
uint64_t fnv1a(const void *at, uint64_t bytes);
void listen_irq(uint32_t irq);
/* Sleeps until an interrupt, unless `count`, one of irq_count, has counted one. */
void halt_unless(volatile uint32_t *count);
_Noreturn void hang(void);
_Noreturn void reset_by_keyboard(void);
_Noreturn void fail(const char *what);

/* --- cmdline.c ------------------------------------------------------------------------------ */
const char *cmdline(void);
/* The value of the word "name=...", or NULL; it ends at a space or the end. */
const char *word(const char *name);
bool word_is(const char *name, const char *value);
uint64_t word_number(const char *name, uint64_t otherwise);
/* Reads a number (decimal, or 0x...) and moves on; true if there was one. */
bool number(const char **text, uint64_t *value);

/* --- acpi.c --------------------------------------------------------------------------------- */
struct acpi {
    const uint8_t *fadt, *dsdt;
    uint32_t dsdt_bytes;
};
bool acpi_find(struct acpi *acpi);
_Noreturn void acpi_reset(void);
_Noreturn void acpi_power_off(void);
/* Sleeps until the power button is pressed. */
void acpi_wait_for_button(void);

/* --- virtio.c ------------------------------------------------------------------------------- */
enum { ID_NET = 1, ID_BLOCK = 2 };
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, NEEDS_RESET = 64 };
enum { NEXT = 1, WRITE = 2 };
#define F_VERSION_1 (1ull << 32)
#define F_EVENT_IDX (1ull << 29)

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

struct queue {
    uint64_t base; /* the device's registers */
    uint32_t index;
    uint16_t size, avail_idx, used_idx, told_idx;
    bool event_idx, interrupts;
    struct desc *desc;
    volatile uint16_t *avail; /* flags, idx, ring[size], used_event */
    volatile uint16_t *used;  /* flags, idx, then le32 id, le32 len each, avail_event */
    uint64_t kicks;
};

struct device {
    uint64_t base;
    uint32_t id, irq;
    uint64_t features;
    struct queue queue[2];
};

enum { MAX_DEVICES = 8 };
extern struct device devices[MAX_DEVICES];
extern uint32_t device_count;

void find_devices(void);
/* The nth device of a kind; ends the probe if there is none. */
struct device *device_of(uint32_t id, uint32_t nth);
uint32_t status(const struct device *device);
/* Resets the device and brings it to DRIVER_OK with those of `features` that it offers. */
void start(struct device *device, uint64_t features, uint32_t queues);
void offer(struct queue *queue, uint16_t head);
void kick(struct queue *queue);
/* Whether there is a used entry to take. */
bool pending(const struct queue *queue);
/* The next used entry; false: none yet. */
bool used(struct queue *queue, uint32_t *head, uint32_t *len);

/* --- the modes ------------------------------------------------------------------------------ */
void blk(void);
void blk_bench(void);
void net(void);
void net_bench(void);
void mistake(void);
