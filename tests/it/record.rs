//! The record channel from a session file to what the log says, through the program.
