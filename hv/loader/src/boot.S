/* From GRUB to Rust, and from real mode to Rust for the other CPUs.
 *
 * Rule: nothing here decides anything. The CPU comes with paging off (multiboot2, 32-bit), puts on
 * temporary page tables (the first 4 GiB at 0 and at the direct map) and calls `loader_start`. Other
 * CPUs come in real mode and go straight to the final page tables, which map low addresses, too.
 */
.set HEADER_MAGIC, 0xe85250d6
.set CR0_ON, 0x80010021            # PG | WP | NE | PE
.set CR4_PAE, 0x20
.set EFER, 0xc0000080
.set EFER_ON, 0x901                # NXE | LME | SCE

.section .boot.header, "a", @progbits
.balign 8
header:
    .long HEADER_MAGIC, 0, header_end - header, -(HEADER_MAGIC + (header_end - header))
information_request:
    .short 1, 1                    # optional: a missing tag is reported by name later
    .long information_request_end - information_request
    .long 1, 3, 6, 14, 15          # command line, modules, memory map, RSDP old and new
information_request_end:
    .balign 8
    .short 3, 0                    # entry address
    .long 12, boot_entry
    .balign 8
    .short 6, 0                    # modules on page boundaries
    .long 8
    .balign 8
    .short 0, 0
    .long 8
header_end:

.section .boot.text, "ax", @progbits
.code32
.globl boot_entry
boot_entry:
    cli
    cld
    mov esi, ebx                   # multiboot information
    mov ebp, eax                   # its magic
    mov esp, offset early_stack_end
    mov eax, 0x80000000
    cpuid
    mov edi, offset no_long_mode
    cmp eax, 0x80000001
    jb boot_refuse
    mov eax, 0x80000001
    cpuid
    bt edx, 29
    jnc boot_refuse
    mov edi, offset no_execute_disable
    bt edx, 20
    jnc boot_refuse

    mov eax, offset boot_l4
    mov cr3, eax
    mov eax, CR4_PAE
    mov cr4, eax
    mov ecx, EFER
    rdmsr
    or eax, EFER_ON
    wrmsr
    mov eax, CR0_ON
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    .att_syntax
    ljmp $8, $boot_long
    .intel_syntax noprefix

boot_refuse:                       # edi: message; written to COM1, then stop
    mov al, [edi]
    test al, al
    jz 2f
    mov ah, al
    mov ecx, 100000
1:  mov dx, 0x3fd
    in al, dx
    test al, 0x20
    loopz 1b
    mov al, ah
    mov dx, 0x3f8
    out dx, al
    inc edi
    jmp boot_refuse
2:  hlt
    jmp 2b

no_long_mode:
    .asciz "uv: this CPU has no 64-bit mode; Ultravisor needs an x86-64 CPU\r\n"
no_execute_disable:
    .asciz "uv: this CPU has no execute-disable bit (NX); enable it in the firmware\r\n"

.code64
boot_long:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    lea rsp, [rip + boot_stack + {boot_stack_bytes}]
    mov edi, ebp
    xor ebp, ebp
    call {loader_start}

/* Another CPU, from `trampoline`. */
other_long:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov rsp, [rip + {stack}]
    xor ebp, ebp
    call {arrive}

/* Copied to a page below 1 MiB, with `trampoline_root` filled in. */
.code16
.globl trampoline
trampoline:
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
    ljmpl $8, $other_long
    .intel_syntax noprefix
trampoline_gdt_pointer:
    .short boot_gdt_pointer - boot_gdt - 1
    .long boot_gdt
.globl trampoline_root
trampoline_root:
    .long 0
.globl trampoline_end
trampoline_end:

.balign 8
boot_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
boot_gdt_pointer:
    .short . - boot_gdt - 1
    .long boot_gdt

.section .boot.data, "aw", @progbits
.balign 4096
boot_l4:                           # slots 0 and 263 (direct map)
    .quad boot_l3 + 3
    .fill 262, 8, 0
    .quad boot_l3 + 3
    .fill 248, 8, 0
boot_l3:
    .quad boot_l2 + 0x0003, boot_l2 + 0x1003, boot_l2 + 0x2003, boot_l2 + 0x3003
    .fill 508, 8, 0
boot_l2:
    .set page, 0x83
    .rept 2048
    .quad page
    .set page, page + 0x200000
    .endr
    .fill 1024, 1, 0
early_stack_end:

.section .bss.boot_stack, "aw", @nobits
.balign 4096
boot_stack:
    .skip {boot_stack_bytes}
