//! events
#![no_std]
