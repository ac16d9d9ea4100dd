//! Error numbers, as hypercalls return them: negative, in rax (`errno.h` of the public headers).

/// Not permitted.
pub const EPERM: i64 = -1;
/// No such thing.
pub const ENOENT: i64 = -2;
/// No such domain.
pub const ESRCH: i64 = -3;
/// Interrupted; never returned to a guest.
pub const EINTR: i64 = -4;
/// I/O error.
pub const EIO: i64 = -5;
/// No such address.
pub const ENXIO: i64 = -6;
/// Argument too long.
pub const E2BIG: i64 = -7;
/// Not an executable.
pub const ENOEXEC: i64 = -8;
/// Bad number.
pub const EBADF: i64 = -9;
/// No child.
pub const ECHILD: i64 = -10;
/// Try again.
pub const EAGAIN: i64 = -11;
/// No memory.
pub const ENOMEM: i64 = -12;
/// Access denied.
pub const EACCES: i64 = -13;
/// Bad guest address.
pub const EFAULT: i64 = -14;
/// Busy.
pub const EBUSY: i64 = -16;
/// Exists already.
pub const EEXIST: i64 = -17;
/// An operation across two devices or domains that must stay within one.
pub const EXDEV: i64 = -18;
/// No such device.
pub const ENODEV: i64 = -19;
/// Not a directory.
pub const ENOTDIR: i64 = -20;
/// A directory.
pub const EISDIR: i64 = -21;
/// Invalid argument.
pub const EINVAL: i64 = -22;
/// Table full.
pub const ENFILE: i64 = -23;
/// Too many open.
pub const EMFILE: i64 = -24;
/// No space left.
pub const ENOSPC: i64 = -28;
/// Read-only.
pub const EROFS: i64 = -30;
/// Too many links.
pub const EMLINK: i64 = -31;
/// Outside the domain of the function.
pub const EDOM: i64 = -33;
/// Out of range.
pub const ERANGE: i64 = -34;
/// Would deadlock.
pub const EDEADLK: i64 = -35;
/// Name too long.
pub const ENAMETOOLONG: i64 = -36;
/// No lock.
pub const ENOLCK: i64 = -37;
/// No such operation.
pub const ENOSYS: i64 = -38;
/// Not empty.
pub const ENOTEMPTY: i64 = -39;
/// No data.
pub const ENODATA: i64 = -61;
/// Timer expired.
pub const ETIME: i64 = -62;
/// Not a message.
pub const EBADMSG: i64 = -74;
/// Too large for its type.
pub const EOVERFLOW: i64 = -75;
/// Illegal byte sequence.
pub const EILSEQ: i64 = -84;
/// Restart the call; never returned to a guest.
pub const ERESTART: i64 = -85;
/// Not a socket.
pub const ENOTSOCK: i64 = -88;
/// Message too long.
pub const EMSGSIZE: i64 = -90;
/// Operation not supported.
pub const EOPNOTSUPP: i64 = -95;
/// Address in use.
pub const EADDRINUSE: i64 = -98;
/// Address not available.
pub const EADDRNOTAVAIL: i64 = -99;
/// No buffers.
pub const ENOBUFS: i64 = -105;
/// Connected already.
pub const EISCONN: i64 = -106;
/// Not connected.
pub const ENOTCONN: i64 = -107;
/// Timed out.
pub const ETIMEDOUT: i64 = -110;
/// Connection refused.
pub const ECONNREFUSED: i64 = -111;

/// The name of an error number, if it is one of these.
#[must_use]
pub fn name(errno: i64) -> Option<&'static str> {
    Some(match errno {
        EPERM => "EPERM",
        ENOENT => "ENOENT",
        ESRCH => "ESRCH",
        EINTR => "EINTR",
        EIO => "EIO",
        ENXIO => "ENXIO",
        E2BIG => "E2BIG",
        ENOEXEC => "ENOEXEC",
        EBADF => "EBADF",
        ECHILD => "ECHILD",
        EAGAIN => "EAGAIN",
        ENOMEM => "ENOMEM",
        EACCES => "EACCES",
        EFAULT => "EFAULT",
        EBUSY => "EBUSY",
        EEXIST => "EEXIST",
        EXDEV => "EXDEV",
        ENODEV => "ENODEV",
        ENOTDIR => "ENOTDIR",
        EISDIR => "EISDIR",
        EINVAL => "EINVAL",
        ENFILE => "ENFILE",
        EMFILE => "EMFILE",
        ENOSPC => "ENOSPC",
        EROFS => "EROFS",
        EMLINK => "EMLINK",
        EDOM => "EDOM",
        ERANGE => "ERANGE",
        EDEADLK => "EDEADLK",
        ENAMETOOLONG => "ENAMETOOLONG",
        ENOLCK => "ENOLCK",
        ENOSYS => "ENOSYS",
        ENOTEMPTY => "ENOTEMPTY",
        ENODATA => "ENODATA",
        ETIME => "ETIME",
        EBADMSG => "EBADMSG",
        EOVERFLOW => "EOVERFLOW",
        EILSEQ => "EILSEQ",
        ERESTART => "ERESTART",
        ENOTSOCK => "ENOTSOCK",
        EMSGSIZE => "EMSGSIZE",
        EOPNOTSUPP => "EOPNOTSUPP",
        EADDRINUSE => "EADDRINUSE",
        EADDRNOTAVAIL => "EADDRNOTAVAIL",
        ENOBUFS => "ENOBUFS",
        EISCONN => "EISCONN",
        ENOTCONN => "ENOTCONN",
        ETIMEDOUT => "ETIMEDOUT",
        ECONNREFUSED => "ECONNREFUSED",
        _ => return None,
    })
}
