//! How severe a message is.

/// Severity; the smaller, the more severe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Something failed and will stay so.
    Error,
    /// Something is odd; the monitor goes on.
    Warn,
    /// Milestones.
    Info,
    /// Everything else.
    Debug,
}

impl Level {
    /// The level with a name as the option `loglevel` takes it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug].into_iter().find(|l| l.name() == name)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}
