//! frames
#![no_std]
