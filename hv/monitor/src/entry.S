/* Ways into ring 0 and out of it.
 *
 * Rule: the guest's registers lie in one `Registers` frame at the top of the CPU's main stack;
 * Rust gets its address and returns the address of the frame to leave by. GS belongs to the
 * guest at all times: a CPU finds its `CpuLocal` by masking rsp.
 */
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

/* 256 stubs of 16 bytes: vector, and 0 where the CPU pushes no error code (8, 10-14, 17, 21, 29, 30 do). */
.section .text.entry, "ax", @progbits
.globl trap_stubs
.balign 16
trap_stubs:
.set vector, 0
.rept 256
    .balign 16
    .if !((vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30))
        push 0
    .endif
    push vector
    .if vector == 1 || vector == 2
        jmp trap_entry_aside
    .else
        jmp trap_entry
    .endif
    .set vector, vector + 1
.endr

/* Vectors with a stack of their own: a partition's frame moves to the main stack. */
trap_entry_aside:
    cld
    SAVE_GPRS
    test byte ptr [rsp + {cs}], 3
    jz 2f
    mov rbx, rsp
    and rbx, -65536
    mov rbx, [rbx + {stack_top}]
    sub rbx, {frame}
    mov rdi, rbx
    mov rsi, rsp
    mov ecx, {frame} / 8
    rep movsq
    mov rsp, rbx
    jmp 2f

trap_entry:
    cld
    SAVE_GPRS
2:
    cmp byte ptr [rip + {smap}], 0
    je 1f
    clac
1:  mov rdi, rsp
    xor ebp, ebp
    call {trap}
    mov rsp, rax
.globl leave_monitor
leave_monitor:
    RESTORE_GPRS
    add rsp, 16
    cmp byte ptr [rip + {verw}], 0
    je leave_iret
    verw word ptr [rip + verw_selector]
.globl leave_iret
leave_iret:
    iretq

/* `syscall` comes in through the entry page of the CPU's own area (one physical page, mapped at
 * area + 4096 everywhere), so rip-relative addresses reach that CPU's CpuLocal.
 *
 * Two cases never reach Rust: a system call of user mode, which becomes a frame on the kernel's
 * stack, and the kernel's `iret` hypercall. Whatever is unusual (events masked or pending, an
 * address that was not checked before, a fault) starts over at `slow`, with all registers as they
 * came. Field by field they do what `bounce::system_call` and `bounce::interrupt_return` do. */
.section .text.entry_page, "ax", @progbits
.balign 4096
.globl entry_page
entry_page:
    mov [rip + entry_page - 4096 + {scratch}], rsp
    mov rsp, [rip + entry_page - 4096 + {stack_top}]
    mov [rip + entry_page - 4096 + {scratch} + 8], rax
    mov rax, [rip + entry_page - 4096 + {current}]
    cmp byte ptr [rax + {in_kernel}], 0
    jne from_kernel
    mov [rip + entry_page - 4096 + {scratch} + 16], rdx
    mov rdx, [rax + {info}]
    cmp byte ptr [rdx + 1], 0
    jne slow_rdx
    mov rdx, [rax + {fast_stack}]
    test rdx, rdx
    jz slow_rdx
    mov byte ptr [rax + {in_kernel}], 1
    swapgs
    mov rdx, [rax + {kernel_root}]
    shl rdx, 12
    mov cr3, rdx
    mov rdx, [rax + {fast_stack}]
    cmp byte ptr [rip + entry_page - 4096 + {smap_here}], 0
    je 1f
    stac
.globl fast_stores
1:
fast_stores:
    mov [rdx - 56], rcx
    mov [rdx - 48], r11
    mov [rdx - 40], rcx
    mov qword ptr [rdx - 32], {flat_cs}
    mov [rdx - 24], r11
    mov rcx, [rip + entry_page - 4096 + {scratch}]
    mov [rdx - 16], rcx
    mov qword ptr [rdx - 8], {flat_ss}
.globl fast_stores_end
fast_stores_end:
    cmp byte ptr [rip + entry_page - 4096 + {smap_here}], 0
    je 1f
    clac
1:  mov rcx, [rax + {info}]
    mov byte ptr [rcx + 1], 1
    mov rcx, [rax + {syscall_callback}]
    and r11d, {entry_flags}
    lea rsp, [rdx - 56]
    mov rdx, [rip + entry_page - 4096 + {scratch} + 16]
    mov rax, [rip + entry_page - 4096 + {scratch} + 8]
    cmp byte ptr [rip + entry_page - 4096 + {verw_here}], 0
    je 1f
    verw word ptr [rip + verw_selector]
1:  sysretq

from_kernel:
    cmp qword ptr [rip + entry_page - 4096 + {scratch} + 8], {iret}
    jne slow
    mov [rip + entry_page - 4096 + {scratch} + 24], rcx
    mov [rip + entry_page - 4096 + {scratch} + 32], r11
    mov rcx, [rip + entry_page - 4096 + {scratch}]
    movabs r11, {monitor_end}
    cmp rcx, r11
    jb slow_iret
    cmp byte ptr [rip + entry_page - 4096 + {smap_here}], 0
    je 1f
    stac
.globl fast_loads
1:
fast_loads:
    test byte ptr [rcx + 25], 1
    jnz slow_iret
    push [rcx + 64]
    or dword ptr [rsp], 3
    push [rcx + 56]
    mov r11, [rcx + 48]
    and r11d, {return_flags}
    or r11d, 2
    push r11
    push [rcx + 40]
    push [rcx + 32]
    push [rcx + 16]
    push [rcx + 8]
    push [rcx]
.globl fast_loads_end
fast_loads_end:
    cmp byte ptr [rip + entry_page - 4096 + {smap_here}], 0
    je 1f
    clac
1:  mov r11, [rax + {info}]
    xor ecx, ecx
    test dword ptr [rsp + 40], 0x200
    jz 2f
    /* Locked: the mask must be seen open before pending is looked at. */
    xchg cl, [r11 + 1]
    cmp byte ptr [r11], 0
    jne slow_iret
    jmp 3f
2:  mov byte ptr [r11 + 1], 1
    or dword ptr [rsp + 40], 0x200
3:  mov ecx, [rsp + 32]
    not ecx
    test ecx, 3
    jnz 4f
    mov rcx, [rax + {user_root}]
    shl rcx, 12
    jz slow_iret
    mov byte ptr [rax + {in_kernel}], 0
    swapgs
    mov cr3, rcx
4:  or dword ptr [rsp + 32], 3
    pop rax
    pop r11
    pop rcx
    cmp byte ptr [rip + entry_page - 4096 + {verw_here}], 0
    je leave_iret_fast
    verw word ptr [rip + verw_selector]
.globl leave_iret_fast
leave_iret_fast:
    iretq

slow_rdx:
    mov rdx, [rip + entry_page - 4096 + {scratch} + 16]
    jmp slow
.globl slow_iret
slow_iret:
    mov rsp, [rip + entry_page - 4096 + {stack_top}]
    mov rcx, [rip + entry_page - 4096 + {scratch} + 24]
    mov r11, [rip + entry_page - 4096 + {scratch} + 32]
    cmp byte ptr [rip + entry_page - 4096 + {smap_here}], 0
    je slow
    clac
slow:
    mov rax, [rip + entry_page - 4096 + {scratch} + 8]
    push {flat_ss}
    push qword ptr [rip + entry_page - 4096 + {scratch}]
    push r11
    push {flat_cs}
    push rcx
    push 0
    push {vector_syscall}
    jmp qword ptr [rip + entry_page - 4096 + {common}]
.balign 64
.globl entry_page_compat
entry_page_compat:
    mov [rip + entry_page - 4096 + {scratch}], rsp
    mov rsp, [rip + entry_page - 4096 + {stack_top}]
    push {flat_ss}
    push qword ptr [rip + entry_page - 4096 + {scratch}]
    push r11
    push {flat_cs32}
    push rcx
    push 0
    push {vector_syscall32}
    jmp qword ptr [rip + entry_page - 4096 + {common}]
.balign 64
.globl entry_page_sysenter
entry_page_sysenter:
    /* Unlike `syscall`, it leaves trap, nested-task and alignment flags as they were. */
    push 2
    popfq
    push {flat_ss}
    push 0
    push 0x200
    push 0
    push 0
    push 0
    push {vector_sysenter}
    jmp qword ptr [rip + entry_page - 4096 + {common}]
/* `verw` clears the CPU's buffers where its operand is in memory; any selector that exists will do. */
verw_selector:
    .short {flat_ss}
.balign 4096

.section .text.entry, "ax", @progbits
.globl syscall_common
syscall_common:
    SAVE_GPRS
    mov rdi, rsp
    xor ebp, ebp
    call {syscall}
    mov rsp, rax
    jmp leave_monitor

/* fn(to rdi, from rsi, bytes rdx) -> bytes not copied. A fault between the labels ends it. */
.globl guest_copy
guest_copy:
    mov rcx, rdx
    shr rcx, 3
    and edx, 7
    cmp byte ptr [rip + {smap}], 0
    je 1f
    stac
.globl guest_copy_words
1:
guest_copy_words:
    rep movsq
    mov ecx, edx
.globl guest_copy_bytes
guest_copy_bytes:
    rep movsb
    xor eax, eax
    jmp 2f
.globl guest_copy_fault
guest_copy_fault:
    mov eax, 1
2:  cmp byte ptr [rip + {smap}], 0
    je 3f
    clac
3:  ret

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
