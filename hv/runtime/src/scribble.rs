//! A partition that runs wild, for tests: it writes over its own memory, and goes on.
//!
//! Rule: only memory that feeds no device, and that nobody else trusts, is written over: data of the
//! image, stack, heap, and the pages of the command channel. The DMA region stays.
#![cfg_attr(
    all(target_os = "none", feature = "start"),
    expect(unsafe_code, reason = "it breaks what the compiler relies on")
)]

/// Writes over the memory of this partition, and returns to nowhere.
#[cfg(all(target_os = "none", feature = "start"))]
pub fn scribble() -> ! {
    unsafe extern "C" {
        /// The linker script's names for the first byte of the writable data, and for the end of the
        /// image.
        static __data_start: u8;
        static __image_end: u8;
    }
    let start = crate::partition::start();
    let (data, end) = ((&raw const __data_start) as u64, (&raw const __image_end) as u64);
    let (channel, pages) = (start.command_pages, start.command_page_count);
    let (heap, bytes) = (start.heap, start.heap_bytes);
    // SAFETY: none of what Rust relies on holds from here on, and no Rust code runs any more. The
    // addresses are those of this partition's own writable memory; the stack ends where the heap
    // begins. The return goes to an address that is not canonical, so the partition faults, and its
    // handler finds no data that it could use.
    unsafe {
        core::arch::asm!(
            "mov rax, {garbage}",
            "cld",
            "rep stosq",
            "mov rdi, r8",
            "mov rcx, r9",
            "rep stosq",
            "mov rdi, r10",
            "mov rcx, r11",
            "rep stosq",
            "mov rdi, rsp",
            "mov rcx, r10",
            "sub rcx, rsp",
            "shr rcx, 3",
            "rep stosq",
            "ret",
            garbage = const 0x5c21_bb1e_dead_5c21_u64,
            in("rdi") data,
            in("rcx") (end - data) / 8,
            in("r8") channel,
            in("r9") pages * pv_abi::PAGE_SIZE as u64 / 8,
            in("r10") heap,
            in("r11") bytes / 8,
            options(noreturn),
        )
    }
}

/// Writes over the memory of this partition.
///
/// # Panics
/// Panics where there is no such partition.
#[cfg(not(all(target_os = "none", feature = "start")))]
pub fn scribble() -> ! {
    panic!("there is no partition that could run wild");
}
