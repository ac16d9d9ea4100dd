//! grants
#![no_std]
