/* As much of ACPI as finds the devices and ends the machine: tables by their signatures, and in the
 * DSDT the byte patterns that matter, without an interpreter. */
#include "probe.h"

static bool matches(const uint8_t *at, const char *text)
{
    while (*text)
        if (*at++ != (uint8_t)*text++)
            return false;
    return true;
}

static uint32_t le32(const uint8_t *at)
{
    return *(const uint32_t *)at;
}

static uint64_t le64(const uint8_t *at)
{
    return *(const uint64_t *)at;
}

/* The RSDP: from the boot protocol, or by the search that the specification prescribes. */
static const uint8_t *rsdp(void)
{
    if (start_info && *(uint64_t *)(start_info + 32))
        return *(const uint8_t **)(start_info + 32);
    if (boot_params && *(uint64_t *)(boot_params + 0x70))
        return *(const uint8_t **)(boot_params + 0x70);
    for (uint64_t at = 0xe0000; at < 0x100000; at += 16)
        if (matches((const uint8_t *)at, "RSD PTR "))
            return (const uint8_t *)at;
    return NULL;
}

bool acpi_find(struct acpi *acpi)
{
    const uint8_t *root = rsdp();
    if (!root || !matches(root, "RSD PTR "))
        return false;
    const uint8_t *xsdt = (const uint8_t *)le64(root + 24);
    for (uint32_t at = 36; at + 8 <= le32(xsdt + 4); at += 8) {
        const uint8_t *table = (const uint8_t *)le64(xsdt + at);
        if (!matches(table, "FACP"))
            continue;
        acpi->fadt = table;
        acpi->dsdt = (const uint8_t *)(le64(table + 140) ? le64(table + 140) : le32(table + 40));
        acpi->dsdt_bytes = le32(acpi->dsdt + 4);
        return matches(acpi->dsdt, "DSDT");
    }
    return false;
}

/* Writes to the I/O port that a generic address structure of the FADT names. */
static void write_register(const uint8_t *address, uint8_t value)
{
    if (address[0] != 1)
        fail("the FADT's register is no I/O port");
    out8(le64(address + 4), value);
}

_Noreturn void acpi_reset(void)
{
    struct acpi acpi;
    if (!acpi_find(&acpi))
        fail("no ACPI tables");
    write_register(acpi.fadt + 116, acpi.fadt[128]);
    hang();
}

_Noreturn void acpi_power_off(void)
{
    struct acpi acpi;
    if (!acpi_find(&acpi))
        fail("no ACPI tables");
    for (uint32_t i = 36; i + 9 <= acpi.dsdt_bytes; i++) {
        const uint8_t *at = acpi.dsdt + i;
        if (!matches(at, "_S5_") || at[4] != 0x12)
            continue;
        /* Package: length (one byte when its upper bits are 0), element count, SLP_TYPa. */
        const uint8_t *value = at + 6 + (at[5] >> 6) + 1;
        uint8_t sleep_type = *value == 0x0a ? value[1] : *value;
        write_register(acpi.fadt + 244, sleep_type << 2 | 1 << 5);
        hang();
    }
    fail("the DSDT has no _S5_");
}

/* The generic event device: its register is the operation region GREG, in SystemMemory and with a
 * 32-bit address; its interrupt is the last one described before that. */
static bool find_event_device(const struct acpi *acpi, uint64_t *reg, uint32_t *irq)
{
    for (uint32_t i = 36; i + 12 <= acpi->dsdt_bytes; i++) {
        const uint8_t *at = acpi->dsdt + i;
        if (at[0] == 0x89 && at[1] == 6 && at[2] == 0 && at[4] == 1)
            *irq = le32(at + 5);
        if (matches(at, "\x5b\x80GREG") && at[6] == 0 && at[7] == 0x0c) {
            *reg = le32(at + 8);
            return true;
        }
    }
    return false;
}

void acpi_wait_for_button(void)
{
    struct acpi acpi;
    uint64_t reg;
    uint32_t irq = ~0u;
    if (!acpi_find(&acpi) || !find_event_device(&acpi, &reg, &irq))
        fail("no generic event device");
    listen_irq(irq);
    put("probe: waits for the power button\n");
    for (;;) {
        irq_count[irq] = 0;
        if (*(volatile uint8_t *)reg & 1)
            return;
        halt_unless(&irq_count[irq]);
    }
}
