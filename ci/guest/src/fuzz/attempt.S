# Doing a step so that the guest goes on whatever it does. rdi = registers: rax, rcx, rdx, rbx, rsi, rdi,
# r8, r10, then where rsp (iret) or rip (code) go. Events are let in meanwhile: one that comes ends the
# attempt, as a fault does; both arrive at __recovered.

        .text
        .macro  begin
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, {stack}(%rip)
        mov     64(%rdi), %r12
        movb    $1, {within}(%rip)
        movb    $0, {shared}+1(%rip)
        mov     (%rdi), %rax
        mov     8(%rdi), %rcx
        mov     16(%rdi), %rdx
        mov     24(%rdi), %rbx
        mov     32(%rdi), %rsi
        mov     48(%rdi), %r8
        mov     56(%rdi), %r10
        mov     40(%rdi), %rdi
        .endm

        .global __attempt_call
__attempt_call:
        begin
        syscall
        jmp     __attempted

        .global __attempt_code
__attempt_code:
        begin
        call    *%r12
        jmp     __attempted

        .global __attempt_iret
__attempt_iret:
        begin
        mov     %r12, %rsp
        mov     ${iret}, %eax
        syscall
        ud2

__attempted:
        movb    $1, {shared}+1(%rip)
        mov     %rax, {result}(%rip)
        .global __recovered
__recovered:
        movb    $1, {shared}+1(%rip)
        mov     {stack}(%rip), %rsp
        movb    $0, {within}(%rip)
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
        .global __fuzz_upcall
__fuzz_upcall:
        push    ${event}
        jmp     __fuzz_entry
        .global __fuzz_syscall
__fuzz_syscall:
        push    ${system_call}
        jmp     __fuzz_entry
        .global __fuzz_failsafe
__fuzz_failsafe:
        push    ${failsafe}
__fuzz_entry:
        mov     %rsp, %rdi
        xor     %ebp, %ebp
        and     $-16, %rsp
        call    {entered}
        ud2
