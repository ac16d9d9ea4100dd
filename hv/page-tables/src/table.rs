//! Reading tables fast.
