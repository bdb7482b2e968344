/* The kernel command line, from whichever boot protocol brought us here. */
#include "probe.h"

const char *cmdline(void)
{
    if (start_info)
        return *(const char **)(start_info + 24); /* hvm_start_info.cmdline_paddr */
    if (boot_params)
        return (const char *)(uint64_t) * (uint32_t *)(boot_params + 0x228); /* cmd_line_ptr */
    return "";
}

/* The next word that begins with `name`, at or after `from`; gives what follows the name. */
static const char *find(const char *from, const char *name)
{
    while (from && *from) {
        while (*from == ' ')
            from++;
        const char *at = from, *n = name;
        while (*n && *at == *n)
            at++, n++;
        if (!*n)
            return at;
        while (*from && *from != ' ')
            from++;
    }
    return NULL;
}

const char *word(const char *name)
{
    return find(cmdline(), name);
}

bool word_is(const char *name, const char *value)
{
    const char *at = word(name);
    if (!at)
        return false;
    while (*value && *at == *value)
        at++, value++;
    return !*value && (!*at || *at == ' ');
}

bool number(const char **text, uint64_t *value)
{
    const char *at = *text;
    uint64_t base = 10, result = 0;
    if (at[0] == '0' && at[1] == 'x') {
        base = 16;
        at += 2;
    }
    const char *begin = at;
    for (;; at++) {
        uint64_t digit = 99;
        if (*at >= '0' && *at <= '9')
            digit = *at - '0';
        else if (*at >= 'a' && *at <= 'f')
            digit = *at - 'a' + 10;
        if (digit >= base)
            break;
        result = result * base + digit;
    }
    *text = at;
    *value = result;
    return at != begin;
}

uint64_t word_number(const char *name, uint64_t otherwise)
{
    const char *at = word(name);
    uint64_t value;
    return at && number(&at, &value) ? value : otherwise;
}
