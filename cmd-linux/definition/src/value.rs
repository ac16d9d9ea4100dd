//! Values with their place in the file: what both syntaxes are read into.

use std::borrow::Cow;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'t> {
    Text(Cow<'t, str>),
    /// A number of any size; what no `i128` can hold is the largest.
    Integer(i128),
    Boolean(bool),
    List(Vec<Item<'t>>),
    Table(Vec<Entry<'t>>),
    /// Of a kind that no field has: what it is called.
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
    /// What it is called in a message.
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
