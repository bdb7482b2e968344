/* Serial output, memory, interrupts, and the ways to end. */
#include "probe.h"

enum { COM1 = 0x3f8, KEYBOARD = 0x64 };

/* Free memory, above the image and below what any test's guest has. */
static uint64_t next_free = 4 << 20;
static const uint64_t memory_end = 96 << 20;

void put(const char *text)
{
    while (*text)
        out8(COM1, *text++);
}

void put_dec(uint64_t value)
{
    char digits[21];
    char *at = digits + 20;
    *at = 0;
    do
        *--at = '0' + value % 10;
    while (value /= 10);
    put(at);
}

void put_hex(uint64_t value)
{
    char digits[17];
    for (int i = 0; i < 16; i++)
        digits[i] = "0123456789abcdef"[value >> (60 - 4 * i) & 15];
    digits[16] = 0;
    put(digits);
}

void *memory(uint64_t bytes, uint64_t align)
{
    uint64_t at = (next_free + align - 1) & ~(align - 1);
    if (at + bytes > memory_end)
        fail("out of memory");
    next_free = at + bytes;
    fill((void *)at, 0, bytes);
    return (void *)at;
}

void fill(void *at, uint8_t value, uint64_t bytes)
{
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(value) : "memory");
}

uint64_t fnv1a(const void *at, uint64_t bytes)
{
    const uint8_t *byte = at;
    uint64_t hash = 0xcbf29ce484222325;
    while (bytes--)
        hash = (hash ^ *byte++) * 0x100000001b3;
    return hash;
}

/* Routes an I/O APIC pin (edge, active high) to its counting stub in start.S. */
void listen_irq(uint32_t irq)
{
    const uint64_t ioapic = 0xfec00000, lapic = 0xfee00000;
    if (irq >= 24)
        fail("an interrupt beyond the I/O APIC");
    write32(lapic + 0xf0, 0x1ff); /* enabled; spurious vector 0xff */
    write32(ioapic, 0x10 + 2 * irq + 1);
    write32(ioapic + 0x10, 0);
    write32(ioapic, 0x10 + 2 * irq);
    write32(ioapic + 0x10, 0x40 + irq);
}

void halt_unless(volatile uint32_t *count)
{
    const uint32_t halt_call = 0x68616c74; /* as start.S knows it */
    __asm__ volatile("ud2" : : "a"(halt_call), "D"(count) : "memory");
}

_Noreturn void hang(void)
{
    for (;;)
        relax();
}

_Noreturn void reset_by_keyboard(void)
{
    out8(KEYBOARD, 0xfe);
    hang();
}

_Noreturn void fail(const char *what)
{
    put("probe: FAIL: ");
    put(what);
    put("\n");
    reset_by_keyboard();
}

/* start.S comes here, in ring 3, after an exception. */
_Noreturn void probe_exception(uint64_t vector, uint64_t cr2, uint64_t first, uint64_t second)
{
    put("probe: FAIL: exception ");
    put_dec(vector);
    put(", cr2 ");
    put_hex(cr2);
    put(", stack ");
    put_hex(first);
    put(" ");
    put_hex(second);
    put("\n");
    reset_by_keyboard();
}
