/* The story: who we are, what is there, the mode, the end. */
#include "probe.h"

_Noreturn void probe_main(void)
{
    put("erth probe: "); /* start.S has said "B" */
    put(start_info ? "pvh\n" : "linux\n");
    if (word_is("mode=", "boot") || !word("mode=")) {
        /* Nothing else: this is what is timed. */
    } else {
        find_devices();
        put("probe: devices ");
        put_dec(device_count);
        put("\n");
        if (word_is("mode=", "blk"))
            blk();
        else if (word_is("mode=", "blkbench"))
            blk_bench();
        else if (word_is("mode=", "net"))
            net();
        else if (word_is("mode=", "netbench"))
            net_bench();
        else if (word_is("mode=", "mistake"))
            mistake();
        else if (!word_is("mode=", "none"))
            fail("an unknown mode");
    }
    if (word_is("end=", "button") || word_is("end=", "button-reset")) {
        acpi_wait_for_button();
        put("probe: the power button was pressed\n");
        if (word_is("end=", "button"))
            acpi_power_off();
    }
    if (word_is("end=", "hang"))
        hang();
    if (word_is("end=", "poweroff"))
        acpi_power_off();
    if (word_is("end=", "acpi-reset"))
        acpi_reset();
    reset_by_keyboard();
}
