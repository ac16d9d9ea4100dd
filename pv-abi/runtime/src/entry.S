# Entry points of a Rust partition: the start, the event upcall, a stub for each trap vector.

        .section .text.entry, "ax", @progbits
        .global _start
# rdi = the start block; rsp = the stack's top. No frame is above this one.
_start:
        xor     %ebp, %ebp
        and     $-16, %rsp
        call    {start}
        ud2

# Bounce frame from rsp up: rcx, r11, rip, cs (saved mask in its upper half), rflags, rsp, ss.
# Goes back at once with the iret hypercall, whose frame has rax, r11, rcx and flags below rip;
# without the event flag in rflags, upcalls are masked again.
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
        .global __fault_stubs
__fault_stubs:
        .set    __vector, 0
        .rept   {vectors}
        push    $__vector
        .byte   0xe9                    # jmp rel32, whatever the distance
        .long   __fault - (. + 4)
        .balign 16
        .set    __vector, __vector + 1
        .endr

__fault:
        mov     %rsp, %rdi
        xor     %ebp, %ebp
        and     $-16, %rsp
        call    {fault}
        ud2
