//! resource-db
#![no_std]
