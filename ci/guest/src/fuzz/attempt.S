# Doing a step so that the guest goes on whatever it does, once for each virtual CPU: what a step breaks
# leaves nothing by which a handler could tell the CPU but its own address. rdi = registers: rax, rcx, rdx,
# rbx, rsi, rdi, r8, r10, then where rsp (iret) or rip (code) go. Events are let in meanwhile: one that
# comes ends the attempt, as a fault does; both arrive at __recovered_N.

        .text
        .macro  begin cpu
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, {stack}+8*\cpu(%rip)
        mov     64(%rdi), %r12
        movb    $1, {within}+\cpu(%rip)
        movb    $0, {shared}+{info}*\cpu+1(%rip)
        mov     (%rdi), %rax
        mov     8(%rdi), %rcx
        mov     16(%rdi), %rdx
        mov     24(%rdi), %rbx
        mov     32(%rdi), %rsi
        mov     48(%rdi), %r8
        mov     56(%rdi), %r10
        mov     40(%rdi), %rdi
        .endm

        .macro  attempts cpu
        .global __attempt_call_\cpu
__attempt_call_\cpu:
        begin   \cpu
        syscall
        jmp     __attempted_\cpu

        .global __attempt_code_\cpu
__attempt_code_\cpu:
        begin   \cpu
        call    *%r12
        jmp     __attempted_\cpu

        .global __attempt_iret_\cpu
__attempt_iret_\cpu:
        begin   \cpu
        mov     %r12, %rsp
        mov     ${iret}, %eax
        syscall
        ud2

__attempted_\cpu:
        movb    $1, {shared}+{info}*\cpu+1(%rip)
        mov     %rax, {result}+8*\cpu(%rip)
        .global __recovered_\cpu
__recovered_\cpu:
        movb    $1, {shared}+{info}*\cpu+1(%rip)
        mov     {stack}+8*\cpu(%rip), %rsp
        movb    $0, {within}+\cpu(%rip)
        push    $2
        popfq
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret

# Events, system calls of user mode, failsafe: as traps with numbers of their own.
        .global __fuzz_upcall_\cpu
__fuzz_upcall_\cpu:
        push    ${event}
        jmp     __fuzz_entry_\cpu
        .global __fuzz_syscall_\cpu
__fuzz_syscall_\cpu:
        push    ${system_call}
        jmp     __fuzz_entry_\cpu
        .global __fuzz_failsafe_\cpu
__fuzz_failsafe_\cpu:
        push    ${failsafe}
__fuzz_entry_\cpu:
        mov     %rsp, %rdi
        mov     $\cpu, %esi
        xor     %ebp, %ebp
        and     $-16, %rsp
        call    {entered}
        ud2

# An NMI outside of a step does nothing. Bounce frame from rsp up: rcx, r11, rip, cs, rflags, rsp, ss; the
# iret hypercall wants rax, r11, rcx and flags below rip.
__fuzz_nmi_\cpu:
        cmpb    $0, {within}+\cpu(%rip)
        jne     1f
        pop     %rcx
        pop     %r11
        push    $0
        push    %rcx
        push    %r11
        push    %rax
        mov     ${iret}, %eax
        syscall
        ud2
1:      push    $2
        jmp     __fuzz_entry_\cpu

# A stub for each vector of the CPU.
        .balign {stub_bytes}
        .global __fuzz_traps_\cpu
__fuzz_traps_\cpu:
        .set    __number, 0
        .rept   {vectors}
        .if     __number == 2
        .byte   0xe9                    # jmp rel32, whatever the distance
        .long   __fuzz_nmi_\cpu - (. + 4)
        .else
        push    $__number
        .byte   0xe9
        .long   __fuzz_entry_\cpu - (. + 4)
        .endif
        .balign {stub_bytes}
        .set    __number, __number + 1
        .endr
        .endm

        attempts 0
        attempts 1

# The start of the second virtual CPU, on a stack of its own.
        .global __other_start
__other_start:
        xor     %ebp, %ebp
        call    {other}
        ud2
