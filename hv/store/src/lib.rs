//! store
#![no_std]
