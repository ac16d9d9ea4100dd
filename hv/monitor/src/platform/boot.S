/* Where the monitor's image begins, and where other CPUs begin.
 *
 * Rule: nothing here decides anything. The loader reads the header and enters the monitor in Rust.
 * Other CPUs come in real mode, in the copied trampoline page, and go straight to the final page
 * tables, whose entry for low addresses is there until all CPUs have started.
 */
.set CR0_ON, 0x80010021            # PG | WP | NE | PE
.set CR4_PAE, 0x20
.set EFER, 0xc0000080
.set EFER_ON, 0x901                # NXE | LME | SCE

.section .image_header, "a", @progbits    # handover::ImageHeader
.balign 8
    .quad {magic}, {version}
    .quad {entry}, entry_page, trap_stubs, {interrupts}

.section .text.boot, "ax", @progbits
/* fn(stack rdi, function rsi, argument rdx) -> ! */
.globl on_stack
on_stack:
    mov rsp, rdi
    xor ebp, ebp
    mov rdi, rdx
    call rsi
    ud2

/* Copied to a page below 1 MiB; `trampoline_*` after the code are filled in for each CPU. */
.section .rodata.trampoline, "a", @progbits
.balign 16
.globl trampoline
trampoline:
.code16
    cli
    cld
    mov ax, cs
    mov ds, ax
    .att_syntax
    lgdtl trampoline_gdt_pointer - trampoline
    movl trampoline_root - trampoline, %eax
    movl %eax, %cr3
    movl $CR4_PAE, %eax
    movl %eax, %cr4
    movl $EFER, %ecx
    rdmsr
    orl $EFER_ON, %eax
    wrmsr
    movl $CR0_ON, %eax
    movl %eax, %cr0
    ljmpl *(trampoline_far - trampoline)
    .intel_syntax noprefix
.code64
.globl trampoline_long
trampoline_long:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov rsp, [rip + trampoline_stack]
    mov edi, [rip + trampoline_cpu]
    xor ebp, ebp
    call [rip + trampoline_function]
.balign 8
trampoline_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
.globl trampoline_gdt_pointer
trampoline_gdt_pointer:
    .short . - trampoline_gdt - 1
    .long trampoline_gdt - trampoline      # + the page's address
.globl trampoline_far
trampoline_far:
    .long trampoline_long - trampoline     # + the page's address
    .short 8
.balign 8
.globl trampoline_root
trampoline_root:     .long 0
.globl trampoline_cpu
trampoline_cpu:      .long 0
.globl trampoline_stack
trampoline_stack:    .quad 0
.globl trampoline_function
trampoline_function: .quad 0
.globl trampoline_end
trampoline_end:
