//! Values with their place in the file, which both syntaxes produce.

use std::borrow::Cow;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'t> {
    Text(Cow<'t, str>),
    /// A number of any size; a number that no `i128` can hold becomes the largest.
    Integer(i128),
    Boolean(bool),
    List(Vec<Item<'t>>),
    Table(Vec<Entry<'t>>),
    /// A value of a kind that no field has; the text names the kind.
    Other(&'static str),
}

/// A value and the byte it starts at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item<'t> {
    pub(crate) at: usize,
    pub(crate) value: Value<'t>,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry<'t> {
    pub(crate) key: Cow<'t, str>,
    pub(crate) at: usize,
    pub(crate) item: Item<'t>,
}

impl Value<'_> {
    /// The kind, as a message names it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}
