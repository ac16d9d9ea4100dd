//! The bootable image: GRUB, the monitor and its modules, for BIOS and UEFI machines alike.
//!
//! An image is named after its contents, so an existing image need not be built again, and two
//! boots at the same time cannot disturb each other.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::interrupt::Scratch;
use crate::workspace;

/// The GRUB modules in the image; any other module would only make it larger.
const GRUB_MODULES: &str = "all_video configfile echo fat halt gzio iso9660 linux multiboot2 normal \
    part_gpt part_msdos rdmsr reboot search serial terminal test";

/// A file that GRUB loads for the monitor.
#[derive(Clone, Debug)]
pub struct Module {
    /// The first word of its command line, by which the monitor knows it.
    pub name: String,
    /// Its path on this machine.
    pub file: PathBuf,
    /// The rest of its command line.
    pub options: String,
}

/// The payload that GRUB starts.
#[derive(Clone, Debug)]
pub enum Payload {
    /// The host: the monitor and its modules.
    Host {
        /// The monitor, a multiboot2 ELF image.
        monitor: PathBuf,
        /// Its command line.
        options: String,
        /// Its modules.
        modules: Vec<Module>,
    },
    /// A Linux kernel on the bare machine, for comparison.
    Linux {
        /// The `bzImage`.
        kernel: PathBuf,
        /// Its command line.
        options: String,
        /// Its initial RAM disk.
        initrd: PathBuf,
    },
    /// Xen with a Linux kernel as its first domain, for comparison.
    Xen {
        /// The hypervisor.
        xen: PathBuf,
        /// Its command line.
        options: String,
        /// The kernel.
        kernel: PathBuf,
        /// Its command line.
        kernel_options: String,
        /// Its initial RAM disk.
        initrd: PathBuf,
    },
}

/// The text that the menu entry prints last, before the value of the time-stamp counter when GRUB
/// jumps.
pub const JUMP_MARK: &str = "time-stamp counter at the jump: 0x";

impl Payload {
    /// The files of the image: the name below `/boot`, and the path on this machine.
    fn files(&self) -> Vec<(&str, &Path)> {
        match self {
            Self::Host { monitor, modules, .. } => {
                let modules = modules.iter().map(|m| (m.name.as_str(), m.file.as_path()));
                std::iter::once(("ultravisor-monitor", monitor.as_path())).chain(modules).collect()
            }
            Self::Linux { kernel, initrd, .. } => {
                vec![("linux", kernel.as_path()), ("initrd", initrd.as_path())]
            }
            Self::Xen { xen, kernel, initrd, .. } => vec![
                ("xen.gz", xen.as_path()),
                ("linux", kernel.as_path()),
                ("initrd", initrd.as_path()),
            ],
        }
    }

    /// The commands of the menu entry.
    fn commands(&self) -> String {
        match self {
            Self::Host { options, modules, .. } => {
                let mut text = format!("multiboot2 /boot/ultravisor-monitor{}\n", words(options));
                for module in modules {
                    let (name, rest) = (&module.name, words(&module.options));
                    text.push_str(&format!("module2 /boot/{name} {name}{rest}\n"));
                }
                text
            }
            Self::Linux { options, .. } => {
                format!("linux /boot/linux{}\ninitrd /boot/initrd\n", words(options))
            }
            Self::Xen { options, kernel_options, .. } => {
                let (xen, linux) = (words(options), words(kernel_options));
                format!(
                    "multiboot2 /boot/xen.gz{xen}\nmodule2 /boot/linux linux{linux}\n\
                     module2 /boot/initrd\n"
                )
            }
        }
    }

    fn grub_config(&self) -> String {
        format!(
            "set timeout=0\nserial --unit=0 --speed=115200\nterminal_input serial console\n\
             terminal_output serial console\nmenuentry Ultravisor {{\n{}\
             rdmsr -v tsc 0x10\necho \"{JUMP_MARK}$tsc\"\n}}\n",
            self.commands()
        )
    }
}

/// The words of `options`, quoted for GRUB's shell, each after a space.
fn words(options: &str) -> String {
    let quoted = |word: &str| match word.chars().all(is_plain) {
        true => format!(" {word}"),
        false => format!(" '{}'", word.replace('\'', "'\\''")),
    };
    options.split_whitespace().map(quoted).collect()
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_=.,:/+@%".contains(c)
}

/// Makes the image unless it exists, and returns its path.
///
/// # Errors
/// A file is missing, or GRUB's tools fail.
pub fn make(payload: &Payload) -> Result<PathBuf> {
    let directory = workspace::directory(workspace::build_dir()?.join("images"))?;
    let image = directory.join(format!("{:016x}.iso", fingerprint(payload)?));
    if image.exists() {
        workspace::mark_used(&image);
        return Ok(image);
    }
    let partial = image.with_added_extension(format!("{}.part", std::process::id()));
    let partial = Scratch::new(partial);
    write(payload, partial.path())?;
    fs::rename(partial.path(), &image)
        .with_context(|| format!("cannot make {}", image.display()))?;
    workspace::drop_old(&directory, "iso");
    Ok(image)
}

/// A number that differs when the configuration or one of the files does.
fn fingerprint(payload: &Payload) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    (GRUB_MODULES, payload.grub_config()).hash(&mut hasher);
    for (name, file) in payload.files() {
        let facts =
            fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?;
        (name, file, facts.len(), facts.ino(), facts.mtime(), facts.mtime_nsec()).hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn write(payload: &Payload, image: &Path) -> Result<()> {
    let tree = Scratch::new(image.with_added_extension("tree"));
    let boot = workspace::directory(tree.path().join("boot"))?;
    workspace::directory(boot.join("grub"))?;
    fs::write(boot.join("grub/grub.cfg"), payload.grub_config())?;
    for (name, file) in payload.files() {
        // xorriso would follow a symbolic link only with an option that grub-mkrescue sets itself,
        // so hard links are used.
        let linked = fs::hard_link(file, boot.join(name));
        linked
            .or_else(|_| fs::copy(file, boot.join(name)).map(drop))
            .with_context(|| format!("cannot put {} into the image", file.display()))?;
    }
    let mut grub = Command::new("grub-mkrescue");
    grub.args(["--output".as_ref(), image.as_os_str(), tree.path().as_os_str()])
        .arg(format!("--install-modules={GRUB_MODULES}"))
        .args(["--locales=", "--fonts=", "--themes="]);
    workspace::output(&mut grub, "making the boot image").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(options: &str) -> Payload {
        Payload::Host {
            monitor: "target/monitor".into(),
            options: "log=debug".into(),
            modules: vec![Module {
                name: "command-kernel".into(),
                file: "vmlinux".into(),
                options: options.into(),
            }],
        }
    }

    #[test]
    fn modules_are_named_by_their_first_word() {
        let config = host("console=hvc0  quiet").grub_config();
        assert!(config.contains("\nmultiboot2 /boot/ultravisor-monitor log=debug\n"));
        let line = "\nmodule2 /boot/command-kernel command-kernel console=hvc0 quiet\n";
        assert!(config.contains(line), "{config}");
    }

    #[test]
    fn what_grub_would_interpret_is_quoted() {
        assert_eq!(words("a=$x;y b'c {"), r" 'a=$x;y' 'b'\''c' '{'");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = make(&host("")).expect_err("nothing is there");
        assert!(format!("{error:#}").contains("target/monitor"), "{error:#}");
    }
}
