//! decode
#![no_std]
