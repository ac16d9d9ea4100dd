//! page-tables
#![no_std]
