//! transaction
#![no_std]
