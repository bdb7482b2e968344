/* Entry, descriptor tables and interrupt stubs of the probe guest.
 *
 * Everything that can be is static in the image: on a KVM that emulates ring 0 an instruction here
 * costs half a microsecond. The first thing done is the first serial byte; the rest runs in
 * ring 3, which runs natively on every kind of KVM.
 *
 * The image is linked at 0x200000 (probe.ld), whose low 16 bits are 0: the halves of an address in
 * a descriptor are then constants that the assembler knows.
 */

        .set COM1, 0x3f8
        .set UNDEFINED, 6
        .set HALT_CALL, 0x68616c74
        .set IRQ_VECTOR, 0x40
        .set PORTS, 0x1000

/* PVH (Xen's XEN_ELFNOTE_PHYS32_ENTRY): 8 bytes of entry address, which every loader accepts.
 * Without it, a loader has only the Linux 64-bit entry to choose. */
#ifndef LINUX_ONLY
        .section .note.pvh, "a", @note
        .align 4
        .long 4, 8, 18
        .asciz "Xen"
        .quad pvh_entry
#endif

        .section .start, "awx", @progbits
base:
/* Linux 64-bit boot protocol: %rsi has struct boot_params. The ELF's entry point. */
        .code64
        .globl linux_entry
linux_entry:
        mov $'B', %al
        mov $COM1, %edx
        out %al, %dx
        mov %esi, boot_params
        mov $pml4, %eax
        mov %rax, %cr3
        lgdt gdt_pointer
        mov $ring0_stack_top, %esp
        push $0x08
        push $long_mode
        lretq

/* PVH: 32-bit protected mode without paging, %ebx has struct hvm_start_info. */
        .code32
pvh_entry:
        mov $'B', %al
        mov $COM1, %edx
        out %al, %dx
        mov %ebx, start_info
        mov $pml4, %eax
        mov %eax, %cr3
        mov $0x20, %eax                 /* PAE */
        mov %eax, %cr4
        mov $0xc0000080, %ecx           /* EFER: LME */
        mov $0x100, %eax
        xor %edx, %edx
        wrmsr
        mov $0x80000031, %eax           /* PG, NE, ET, PE */
        mov %eax, %cr0
        lgdt gdt_pointer
        ljmp $0x08, $long_mode

        .code64
long_mode:
        lidt idt_pointer
        mov $0x28, %eax
        ltr %ax
        mov $0xff, %al                  /* The PICs keep silent: interrupts come by I/O APIC. */
        out %al, $0x21
        out %al, $0xa1
        mov $ring0_stack_top, %esp
        push $0x1b                      /* To ring 3, interrupts on. */
        push $ring3_stack_top
        push $0x202
        push $0x23
        push $probe_main
        iretq

/* Exceptions: none is expected. Tells ring 3's reporter which, where and why, and goes there. */
        .align 16
exception_stubs:
        .set vector, 0
        .rept 32
        .align 8
        push $vector
        jmp exception
        .set vector, vector + 1
        .endr
exception:
        pop %rdi
        mov %cr2, %rsi
        mov (%rsp), %rdx                /* The error code, or the address where there is none. */
        mov 8(%rsp), %rcx
        mov $ring0_stack_top, %esp
        push $0x1b
        push $ring3_stack_top
        push $0x2
        push $0x23
        push $probe_exception
        iretq

/* Interrupts: each counts itself and acknowledges the local APIC. */
        .align 16
irq_stubs:
        .set irq, 0
        .rept 24
        .align 32
        push %rax
        incl irq_count + 4 * irq
        mov $0xfee000b0, %eax
        movl $0, (%rax)
        pop %rax
        iretq
        .set irq, irq + 1
        .endr

/* Ring 3 calls by ud2, since not every KVM passes software interrupts on: sleeps until an
 * interrupt, unless the counter at %rdi has counted one. */
        .align 16
undefined_stub:
        cmp $HALT_CALL, %eax
        jne exception_stubs + 8 * UNDEFINED
        addq $2, (%rsp)
        cmpl $0, (%rdi)
        jne 1f
        sti                             /* Takes effect behind hlt: none is lost in between. */
        hlt
1:      iretq

        .align 16
gdt:
        .quad 0
        .quad 0x00af9a000000ffff        /* 0x08: ring 0 code, 64 bit */
        .quad 0x00cf92000000ffff        /* 0x10: ring 0 data */
        .quad 0x00cff2000000ffff        /* 0x18: ring 3 data */
        .quad 0x00affa000000ffff        /* 0x20: ring 3 code, 64 bit */
        .word tss_end - tss - 1         /* 0x28: task state */
        .word tss - base
        .byte 0x20, 0x89, 0, 0
        .quad 0
gdt_end:
        .align 8
        .word 0, 0, 0
gdt_pointer:
        .word gdt_end - gdt - 1
        .quad gdt

        .align 16
tss:
        .long 0
        .quad ring0_stack_top
        .fill 90, 1, 0
        .word io_bitmap - tss
io_bitmap:
        .fill PORTS / 8, 1, 0           /* Ring 3 may use every port below PORTS. */
        .byte 0xff
tss_end:

        .macro gate handler, access
        .word \handler - base
        .word 0x08
        .byte 0, \access
        .word 0x20
        .quad 0
        .endm

        .align 16
idt:
        .set vector, 0
        .rept 32
        .if vector == UNDEFINED
        gate undefined_stub, 0x8e
        .else
        gate (exception_stubs + 8 * vector), 0x8e
        .endif
        .set vector, vector + 1
        .endr
        .fill (IRQ_VECTOR - 32) * 16, 1, 0
        .set vector, 0
        .rept 24
        gate (irq_stubs + 32 * vector), 0x8e
        .set vector, vector + 1
        .endr
idt_end:
        .align 8
        .word 0, 0, 0
idt_pointer:
        .word idt_end - idt - 1
        .quad idt

        .globl boot_params, start_info, irq_count
        .align 8
boot_params:
        .quad 0
start_info:
        .quad 0
irq_count:
        .fill 24, 4, 0

/* Identity mapping of the first GiB (memory) and the fourth (device registers), for ring 3 too. */
        .align 4096
pml4:
        .quad pdpt + 7
        .fill 511, 8, 0
pdpt:
        .quad pd_memory + 7, 0, 0, pd_devices + 7
        .fill 508, 8, 0
pd_memory:
        .set page, 0
        .rept 512
        .quad (page << 21) + 0x87
        .set page, page + 1
        .endr
pd_devices:
        .set page, 1536
        .rept 512
        .quad (page << 21) + 0x97
        .set page, page + 1
        .endr

        .section .bss
        .align 16
        .fill 1024
ring0_stack_top:
        .fill 16384
ring3_stack_top:
        .section .note.GNU-stack, "", @progbits
