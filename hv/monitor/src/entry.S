/* Ways into ring 0 and out of it.
 *
 * Rule: the guest's registers lie in one `Registers` frame at the top of the CPU's main stack;
 * Rust gets its address and returns the address of the frame to leave by. GS belongs to the
 * guest at all times: a CPU finds its `CpuLocal` by masking rsp.
 *
 * The main stack of a CPU, from its top down, and who writes each part:
 *
 *     stack_top ->
 *         ss rsp rflags cs rip              the CPU, or the entry page where the CPU writes none
 *         error code, or 0                  the CPU, or the stub of the vector
 *         vector, or a pseudo-vector        the stub, or the entry page (`context.rs` has the numbers)
 *         rdi rsi rdx rcx rax r8 to r11
 *         rbx rbp r12 to r15                SAVE_GPRS
 *     rsp -> here begins `Registers`
 *         frames of the monitor's Rust functions
 *
 * Names in braces are constants, and addresses of Rust functions, that `entry.rs` hands in.
 */

/* A fault of the instructions from the first address to before the second continues at the third; at 0
 * the partition is ended (`recovery.rs`). */
.macro RECOVER from, to, at
    .pushsection .recoveries, "a"
    .quad \from, \to, \at
    .popsection
.endm

/* Executes the instruction if the byte at the address is not 0. */
.macro IF_SET address, instruction:vararg
    cmp byte ptr [rip + \address], 0
    je 9f
    \instruction
9:
.endm

/* Pushes the general registers: the lower part of `Registers`. */
.macro SAVE_GPRS
    push rdi
    push rsi
    push rdx
    push rcx
    push rax
    push r8
    push r9
    push r10
    push r11
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
.endm

/* The reverse of SAVE_GPRS. */
.macro RESTORE_GPRS
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    pop r11
    pop r10
    pop r9
    pop r8
    pop rax
    pop rcx
    pop rdx
    pop rsi
    pop rdi
.endm

/* 256 stubs of 16 bytes. A stub pushes its vector, and before that 0 if the CPU pushes no error code for
 * the vector: bit n of `error_codes` says that it does for vector n. */
.section .text.entry, "ax", @progbits
.globl trap_stubs
.balign 16
trap_stubs:
.set vector, 0
.rept 256
    .balign 16
    .if (vector > 31) || ((({error_codes} >> (vector & 31)) & 1) == 0)
        push 0
    .endif
    push vector
    .if vector == {vector_debug} || vector == {vector_nmi}
        jmp trap_entry_own_stack
    .else
        jmp trap_entry
    .endif
    .set vector, vector + 1
.endr

/* Debug exceptions and NMIs come in on a stack of their own. The frame of a partition (cs of ring 3)
 * moves to the main stack; the monitor's own frame stays.
 * In: rsp = the vector's words on that stack. rbx = first the area of this CPU, then the new frame. */
trap_entry_own_stack:
    cld
    SAVE_GPRS
    test byte ptr [rsp + {cs}], 3
    jz 2f
    mov rbx, rsp
    and rbx, -{area_bytes}
    mov rbx, [rbx + {stack_top}]
    sub rbx, {frame}
    mov rdi, rbx
    mov rsi, rsp
    mov ecx, {frame} / 8
    rep movsq
    mov rsp, rbx
    jmp 2f

/* All other vectors. In: rsp = the vector's words on the main stack, or below them if the monitor itself
 * was interrupted. rdi = the frame; rbp = 0 ends backtraces; rax returns the frame to leave by. */
trap_entry:
    cld
    SAVE_GPRS
2:  IF_SET {smap}, clac
    mov rdi, rsp
    xor ebp, ebp
    call {trap}
    mov rsp, rax

/* Leaves by the `Registers` frame at rsp. The words of vector and error code are passed over. */
.globl leave_monitor
leave_monitor:
    RESTORE_GPRS
    add rsp, 16
    IF_SET {verw}, verw word ptr [rip + verw_selector]
1:  iretq
2:  RECOVER 1b, 2b, return_failed

/* The CPU refused the partition's cs, ss or rflags. In: as at `iretq`, so the five words at rsp are the upper
 * end of the frame, and the general registers are the partition's. */
return_failed:
    push 0
    push 0
    SAVE_GPRS
    mov rdi, rsp
    xor ebp, ebp
    call {failed_return}
    mov rsp, rax
    jmp leave_monitor

/* `syscall` comes in through the entry page of the CPU's own area. The page is one physical page, mapped
 * behind the first page of every area, so the rip-relative address `.Larea + FIELD` reaches the field of
 * that CPU's `CpuLocal`.
 *
 * Two cases never reach Rust: a system call of user mode, which becomes a frame on the kernel's
 * stack, and the kernel's `iret` hypercall. Whatever is unusual (events masked or pending, an
 * address that was not checked before, a fault) starts over at `slow`, with all registers as they
 * came. Field by field they do what `bounce::system_call` and `bounce::interrupt_return` do. */
.section .text.entry_page, "ax", @progbits
.balign 4096
.globl entry_page
entry_page:
.set .Larea, entry_page - 4096
    /* In, by the CPU: rcx = rip and r11 = rflags of the partition; rsp is still the partition's.
     * From here on rax = the virtual CPU that runs. */
    mov [rip + .Larea + {kept_rsp}], rsp
    mov rsp, [rip + .Larea + {stack_top}]
    mov [rip + .Larea + {kept_rax}], rax
    mov rax, [rip + .Larea + {current}]
    cmp byte ptr [rax + {in_kernel}], 0
    jne from_kernel

    /* A system call of user mode. rdx = `vcpu_info` (nothing is changed yet: events must not be masked),
     * then the stack that the frame goes on, aligned and checked before; 0 if it is not. */
    mov [rip + .Larea + {kept_rdx}], rdx
    mov rdx, [rax + {info}]
    cmp byte ptr [rdx + {upcall_mask}], 0
    jne slow_rdx
    mov rdx, [rax + {fast_stack}]
    test rdx, rdx
    jz slow_rdx
    /* To the kernel's page tables and GS base. */
    mov byte ptr [rax + {in_kernel}], 1
    swapgs
    mov rdx, [rax + {kernel_root}]
    shl rdx, {page_shift}
    mov cr3, rdx
    mov rdx, [rax + {fast_stack}]
    IF_SET .Larea+{smap_here}, stac
    /* The frame, below rdx. */
1:  mov [rdx - {bounce} + {bounce_rcx}], rcx
    mov [rdx - {bounce} + {bounce_r11}], r11
    mov [rdx - {bounce} + {bounce_rip}], rcx
    mov qword ptr [rdx - {bounce} + {bounce_cs}], {flat_cs}
    mov [rdx - {bounce} + {bounce_rflags}], r11
    mov rcx, [rip + .Larea + {kept_rsp}]
    mov [rdx - {bounce} + {bounce_rsp}], rcx
    mov qword ptr [rdx - {bounce} + {bounce_ss}], {flat_ss}
2:  RECOVER 1b, 2b, 0
    IF_SET .Larea+{smap_here}, clac
    /* Masks events. Out, for `sysretq`: rcx = the kernel's entry, r11 = rflags, rsp = the frame. */
    mov rcx, [rax + {info}]
    mov byte ptr [rcx + {upcall_mask}], 1
    mov rcx, [rax + {syscall_callback}]
    and r11d, {entry_flags}
    lea rsp, [rdx - {bounce}]
    mov rdx, [rip + .Larea + {kept_rdx}]
    mov rax, [rip + .Larea + {kept_rax}]
    IF_SET .Larea+{verw_here}, verw word ptr [rip + verw_selector]
    sysretq

    /* A hypercall. `iret` alone is done here; rcx = its nine words (`iret_context`) on the kernel's stack,
     * which must lie above the monitor's part of the address space. */
from_kernel:
    cmp qword ptr [rip + .Larea + {kept_rax}], {iret}
    jne slow
    mov [rip + .Larea + {kept_rcx}], rcx
    mov [rip + .Larea + {kept_r11}], r11
    mov rcx, [rip + .Larea + {kept_rsp}]
    movabs r11, {monitor_end}
    cmp rcx, r11
    jb slow_iret
    IF_SET .Larea+{smap_here}, stac
    /* Makes a `ReturnFrame` on the main stack. A return from a system call, which keeps rcx and r11, goes
     * the long way. */
1:  test byte ptr [rcx + {iret_flags} + 1], {in_syscall} >> 8
    jnz slow_iret
    push [rcx + {iret_ss}]
    or dword ptr [rsp], 3
    push [rcx + {iret_rsp}]
    mov r11, [rcx + {iret_rflags}]
    and r11d, {return_flags}
    or r11d, {flag_fixed}
    push r11
    push [rcx + {iret_cs}]
    push [rcx + {iret_rip}]
    push [rcx + {iret_rcx}]
    push [rcx + {iret_r11}]
    push [rcx + {iret_rax}]
2:  RECOVER 1b, 2b, slow_iret
    IF_SET .Larea+{smap_here}, clac
    /* The interrupt flag becomes the event mask. r11 = `vcpu_info`. */
    mov r11, [rax + {info}]
    xor ecx, ecx
    test dword ptr [rsp + {return_rflags}], {flag_if}
    jz 2f
    /* Locked: the mask must be seen open before pending is looked at. */
    xchg cl, [r11 + {upcall_mask}]
    cmp byte ptr [r11 + {upcall_pending}], 0
    jne slow_iret
    jmp 3f
2:  mov byte ptr [r11 + {upcall_mask}], 1
    or dword ptr [rsp + {return_rflags}], {flag_if}
    /* A cs of ring 3 means user mode: to the page tables and the GS base of user mode, if there are any. */
3:  mov ecx, [rsp + {return_cs}]
    not ecx
    test ecx, 3
    jnz 4f
    mov rcx, [rax + {user_root}]
    shl rcx, {page_shift}
    jz slow_iret
    mov byte ptr [rax + {in_kernel}], 0
    swapgs
    mov cr3, rcx
    /* Whatever the kernel wrote, it returns to ring 3. */
4:  or dword ptr [rsp + {return_cs}], 3
    pop rax
    pop r11
    pop rcx
    IF_SET .Larea+{verw_here}, verw word ptr [rip + verw_selector]
1:  iretq
2:  RECOVER 1b, 2b, return_failed

    /* The long way: registers become again what they were at `syscall`, rsp is the main stack, and the five
     * words that the CPU would have pushed for an exception are written in its place. */
slow_rdx:
    mov rdx, [rip + .Larea + {kept_rdx}]
    jmp slow
slow_iret:
    mov rsp, [rip + .Larea + {stack_top}]
    mov rcx, [rip + .Larea + {kept_rcx}]
    mov r11, [rip + .Larea + {kept_r11}]
    IF_SET .Larea+{smap_here}, clac
slow:
    mov rax, [rip + .Larea + {kept_rax}]
    push {flat_ss}
    push qword ptr [rip + .Larea + {kept_rsp}]
    push r11
    push {flat_cs}
    push rcx
    push 0
    push {vector_syscall}
    jmp qword ptr [rip + .Larea + {common}]

    /* `syscall` from compatibility mode: as `slow`, at once. */
.balign 64
.globl entry_page_compat
entry_page_compat:
    mov [rip + .Larea + {kept_rsp}], rsp
    mov rsp, [rip + .Larea + {stack_top}]
    push {flat_ss}
    push qword ptr [rip + .Larea + {kept_rsp}]
    push r11
    push {flat_cs32}
    push rcx
    push 0
    push {vector_syscall32}
    jmp qword ptr [rip + .Larea + {common}]

    /* `sysenter`: the CPU has loaded rsp with the main stack and tells neither rip, rsp nor flags.
     * Unlike `syscall`, it leaves trap, nested-task and alignment flags as they were. */
.balign 64
.globl entry_page_sysenter
entry_page_sysenter:
    push {flag_fixed}
    popfq
    push {flat_ss}
    push 0
    push {flag_if}
    push 0
    push 0
    push 0
    push {vector_sysenter}
    jmp qword ptr [rip + .Larea + {common}]

/* `verw` clears the CPU's buffers where its operand is in memory; any selector that exists will do. */
verw_selector:
    .short {flat_ss}
.balign 4096

/* Where the entry page goes on. In: rsp = the vector's words on the main stack. rax returns the frame to
 * leave by. */
.section .text.entry, "ax", @progbits
.globl syscall_common
syscall_common:
    SAVE_GPRS
    mov rdi, rsp
    xor ebp, ebp
    call {syscall}
    mov rsp, rax
    jmp leave_monitor

/* fn(to rdi, from rsi, bytes rdx) -> 0 in rax, or 1 if a fault ended the copy. */
.globl guest_copy
guest_copy:
    mov rcx, rdx
    shr rcx, 3
    and edx, 7
    IF_SET {smap}, stac
    mov eax, 1
1:  rep movsq
    mov ecx, edx
    rep movsb
    xor eax, eax
2:  RECOVER 1b, 2b, 2b
    IF_SET {smap}, clac
    ret

/* fn(function rdi): calls it, never to return, with the top of the stack left free for the guest frame. */
.globl below_frame
below_frame:
    sub rsp, 1024
    and rsp, -16
    call rdi

/* fn(frame rdi): leave the monitor by this frame; a CPU's first run. */
.globl enter_first
enter_first:
    mov rsp, rdi
    jmp leave_monitor
