//! Values with their place in the file: what both syntaxes are read into.

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(String),
    /// A number of any size; what no `i128` can hold is the largest.
    Integer(i128),
    Boolean(bool),
    List(Vec<Item>),
    Table(Vec<Entry>),
    /// Of a kind that no field has: what it is called.
    Other(&'static str),
}

/// A value and the byte it starts at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) at: usize,
    pub(crate) value: Value,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) at: usize,
    pub(crate) item: Item,
}

impl Value {
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
