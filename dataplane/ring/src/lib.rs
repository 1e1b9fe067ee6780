//! Makes the kernel do things: the Engine trait, io_uring and epoll.
