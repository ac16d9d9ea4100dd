//! scheduler
#![no_std]
