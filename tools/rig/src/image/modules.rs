//! Finds the kernel modules that the command partition needs, and their load order.
//!
//! A module names its dependencies in its `.modinfo` section (`depends=a,b`), so no `modules.dep`
//! is needed; the package ships none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace;

/// The modules of a kernel by name. Names have `_` in place of `-`.
pub struct Modules {
    files: BTreeMap<String, PathBuf>,
    /// Modules that are built into the kernel.
    built_in: BTreeSet<String>,
}

/// A module's name, taken from its file name; names of compressed modules end in `.ko.xz` or the
/// like.
pub fn stem(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.split(".ko").next().unwrap_or_default().to_owned()
}

/// The unpacked bytes of a module.
///
/// # Errors
/// The file cannot be read or unpacked.
pub fn contents(file: &Path) -> Result<Vec<u8>> {
    Ok(kernel_image::unpack_file(workspace::read(file)?, file)?)
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

impl Modules {
    /// Finds the modules below `directory` (`lib/modules/<release>`).
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn find(directory: &Path) -> Result<Self> {
        let list = fs::read_to_string(directory.join("modules.builtin")).unwrap_or_default();
        let built_in = list.lines().map(|line| canonical(&stem(line.as_ref()))).collect();
        let mut files = BTreeMap::new();
        let mut pending = vec![directory.join("kernel")];
        while let Some(directory) = pending.pop() {
            let entries = fs::read_dir(&directory)
                .with_context(|| format!("cannot read {}", directory.display()))?;
            for entry in entries {
                let path = entry?.path();
                if path.is_dir() {
                    pending.push(path);
                } else if path.to_string_lossy().contains(".ko") {
                    files.insert(canonical(&stem(&path)), path);
                }
            }
        }
        Ok(Self { files, built_in })
    }

    /// Whether there is a module of this name, in a file or built in.
    pub fn has(&self, name: &str) -> bool {
        let name = canonical(name);
        self.files.contains_key(&name) || self.built_in.contains(&name)
    }

    /// The files of `names` and of all their dependencies, each after its dependencies.
    ///
    /// # Errors
    /// A module is missing or cannot be read.
    pub fn in_load_order(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut order = Vec::new();
        for name in names {
            self.add(&canonical(name), &mut order, 0)?;
        }
        Ok(order)
    }

    fn add(&self, name: &str, order: &mut Vec<PathBuf>, depth: usize) -> Result<()> {
        let Some(path) = self.files.get(name) else {
            ensure!(self.built_in.contains(name), "the kernel's package has no module {name}");
            return Ok(());
        };
        if order.contains(path) {
            return Ok(());
        }
        if depth > self.files.len() {
            bail!("module {name} depends on itself");
        }
        for dependency in dependencies(&contents(path)?) {
            self.add(&canonical(&dependency), order, depth + 1)?;
        }
        order.push(path.clone());
        Ok(())
    }
}

/// The names in the `depends=` string of a module.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|bytes| bytes == KEY) else {
        return Vec::new();
    };
    let value = &module[at + KEY.len()..];
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(name: &str, modules: &[(&str, &str)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        let directory = root.join("kernel/drivers");
        fs::create_dir_all(&directory).expect("a directory for temporary files");
        for (name, depends) in modules {
            let bytes = format!("\x7fELF\0license=GPL\0depends={depends}\0retpoline=Y\0");
            fs::write(directory.join(format!("{name}.ko")), bytes).expect("space");
        }
        root
    }

    fn order(root: &Path, names: &[&str]) -> Result<Vec<String>> {
        let files = Modules::find(root)?.in_load_order(names)?;
        let stem = |p: &PathBuf| p.file_stem().map(|s| s.to_string_lossy().into_owned());
        Ok(files.iter().filter_map(stem).collect())
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let root = tree(
            "order",
            &[("xenfs", "xen-privcmd"), ("xen-privcmd", ""), ("top", "xenfs,xen_privcmd")],
        );
        let found = order(&root, &["top", "xenfs"]).expect("all are there");
        assert_eq!(found, ["xen-privcmd", "xenfs", "top"]);
        fs::write(root.join("modules.builtin"), "kernel/drivers/a-part.ko\n").expect("space");
        assert_eq!(order(&root, &["a-part"]).expect("built in"), [""; 0]);
        fs::remove_dir_all(root).expect("made above");
    }

    #[test]
    fn missing_and_circular_modules_are_named() {
        let root = tree("bad", &[("a", "b"), ("b", "a"), ("c", "gone")]);
        for (name, message) in [("a", "depends on itself"), ("c", "no module gone")] {
            let error = order(&root, &[name]).expect_err("cannot work").to_string();
            assert!(error.contains(message), "{error}");
        }
        fs::remove_dir_all(root).expect("made above");
    }
}
