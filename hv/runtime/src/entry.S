# Entry point of a Rust partition.

        .section .text.entry, "ax", @progbits
        .global _start
# rsi = the start block; rsp = the stack's top. No frame is above this one.
_start:
        mov     %rsi, %rdi
        xor     %ebp, %ebp
        and     $-16, %rsp
        call    {start}
        ud2
