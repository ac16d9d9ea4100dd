//! The part of the ABI that is wire-compatible with Xen's x86-64 PV ABI.
