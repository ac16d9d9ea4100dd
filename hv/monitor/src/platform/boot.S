/* Where the monitor's image begins.
 *
 * Rule: nothing here decides anything. The loader reads the header and enters the monitor in Rust,
 * on every CPU.
 */
.section .image_header, "a", @progbits    # handover::ImageHeader
.balign 8
    .quad {magic}, {version}
    .quad {entry}, {entry_of_others}, entry_page, trap_stubs, {interrupts}

.section .text.boot, "ax", @progbits
/* fn(stack rdi, function rsi, argument rdx) -> ! */
.globl on_stack
on_stack:
    mov rsp, rdi
    xor ebp, ebp
    mov rdi, rdx
    call rsi
    ud2
