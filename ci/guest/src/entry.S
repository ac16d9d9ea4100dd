# The ELF notes of the guest that a loader reads, and the start.

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
