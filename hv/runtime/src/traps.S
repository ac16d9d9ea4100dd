# Entry points that a kernel hands in: the event upcall, a stub for each trap vector.

        .section .text.entry, "ax", @progbits
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

# Leaves the vector below the bounce frame.
        .balign {stub_bytes}
        .global __trap_stubs
__trap_stubs:
        .set    __vector, 0
        .rept   {vectors}
        push    $__vector
        .byte   0xe9                    # jmp rel32, whatever the distance
        .long   __trap - (. + 4)
        .balign {stub_bytes}
        .set    __vector, __vector + 1
        .endr

__trap:
        mov     %rsp, %rdi
        xor     %ebp, %ebp
        and     $-16, %rsp
        call    {trap}
        ud2
