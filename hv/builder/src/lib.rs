//! builder
#![no_std]
