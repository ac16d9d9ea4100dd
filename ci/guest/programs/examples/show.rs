//! Prints a program: `cargo run -p fuzz-programs --example show SEED INDEX`.

use fuzz_programs::Program;

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [seed, index] => print!("{}", Program::generate(seed, index)),
        _ => eprintln!("give SEED INDEX"),
    }
}
