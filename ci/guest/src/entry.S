# Entry points of the guest: the ELF notes that a loader reads, the start, the event upcall, a stub
# for each trap vector.

        .section .note.Xen, "a", @note
        .macro  number_note type, value
        .balign 4
        .long   4, 8, \type
        .asciz  "Xen"
        .quad   \value
        .endm
        .macro  text_note type, text
        .balign 4
        .long   4, 2f - 1f, \type
        .asciz  "Xen"
1:      .asciz  "\text"
2:      .balign 4
        .endm
        text_note       {guest_os}, "minimal-guest"
        text_note       {version}, "xen-3.0"
        text_note       {loader}, "generic"
        text_note       {features}, "!writable_page_tables|pae_pgdir_above_4gb"
        number_note     {virt_base}, __virt_base
        number_note     {paddr_offset}, 0
        number_note     {entry}, _start

        .section .text.entry, "ax", @progbits
        .global _start
# rsi = start info. The loader's stack has one page: this one is ours. The first instruction does
# nothing: it is a mark for whoever counts how many a start takes.
_start:
        nopl    {started}(%rax,%rax)
        lea     {stack}(%rip), %rsp
        add     ${stack_bytes}, %rsp
        xor     %ebp, %ebp
        mov     %rsi, %rdi
        call    {start}
        ud2

# Bounce frame from rsp up: rcx, r11, rip, cs (saved mask in its upper half), rflags, rsp, ss.
# Goes back with the iret hypercall, whose frame has rax, r11, rcx and flags below rip; without the
# event flag in rflags, upcalls are masked again.
        .global __event_upcall
__event_upcall:
        pop     %rcx
        pop     %r11
        movl    $0, 12(%rsp)
        andl    $~{event_flag}, 16(%rsp)
        push    $0
        push    %rcx
        push    %r11
        push    %rax
        mov     ${iret}, %eax
        syscall
        ud2

# A stub of 16 bytes per vector: leaves the vector below the bounce frame.
        .balign 16
        .global __trap_stubs
__trap_stubs:
        .set    __vector, 0
        .rept   {vectors}
        push    $__vector
        .byte   0xe9                    # jmp rel32, whatever the distance
        .long   __trap - (. + 4)
        .balign 16
        .set    __vector, __vector + 1
        .endr

__trap:
        mov     %rsp, %rdi
        xor     %ebp, %ebp
        and     $-16, %rsp
        call    {trap}
        ud2
