//! The kernel: every unsafe block of the program, each with its promise, its keeper and its test.
#![allow(unsafe_code)]
