//! What the C library says of its errors, kept for whoever asks why a call failed.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of messages that are kept; what comes after is dropped.
const MOST: usize = 2048;

/// Messages since the last look.
#[derive(Debug, Default)]
pub(crate) struct Messages(Mutex<String>);

impl Messages {
    // Nothing panics under this lock, so a poisoned lock holds a whole text.
    fn lock(&self) -> MutexGuard<'_, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one message.
    pub fn add(&self, message: &str) {
        let mut text = self.lock();
        let message = message.trim();
        if !message.is_empty() && text.len() + message.len() + 2 <= MOST {
            if !text.is_empty() {
                text.push_str("; ");
            }
            // Names from a file may hold anything; a message is one line.
            text.extend(message.chars().map(|c| if c.is_control() { ' ' } else { c }));
        }
    }

    /// What was said since the last look.
    pub fn take(&self) -> String {
        let text = std::mem::take(&mut *self.lock());
        if text.is_empty() {
            "it does not say why".into()
        } else {
            text
        }
    }

    /// What the C library passes back to [`report`].
    pub fn as_user_data(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }
}

unsafe extern "C" {
    /// Of the C standard library. A `va_list` parameter is passed as a pointer on the platforms that
    /// [`report`] formats for: an array that decays on x86-64, a structure passed by reference on arm64.
    fn vsnprintf(to: *mut c_char, size: usize, format: *const c_char, arguments: *mut c_void) -> c_int;
}

/// Takes a message of the C library.
///
/// # Safety
/// `user` must come from [`Messages::as_user_data`] of messages that are alive, `format` must be a text that
/// ends with 0, and `arguments` the `va_list` that belongs to it.
pub(crate) unsafe extern "C" fn report(user: *mut c_void, format: *const c_char, arguments: *mut c_void) {
    if user.is_null() || format.is_null() {
        return;
    }
    // SAFETY: by this function's contract; messages are only ever used through shared references.
    let messages = unsafe { &*user.cast::<Messages>() };
    let mut buffer: [c_char; 512] = [0; 512];
    if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        // SAFETY: the buffer has this size, format and arguments belong together by this function's contract.
        // What does not fit is cut, and the text ends with 0.
        unsafe { vsnprintf(buffer.as_mut_ptr(), buffer.len(), format, arguments) };
        // SAFETY: `vsnprintf` ended the text with 0 within the buffer, which was all 0 before.
        let text = unsafe { CStr::from_ptr(buffer.as_ptr()) };
        messages.add(&text.to_string_lossy());
    } else {
        // SAFETY: by this function's contract it ends with 0.
        let text = unsafe { CStr::from_ptr(format) };
        messages.add(&text.to_string_lossy());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_joined_cleaned_and_bounded() {
        let messages = Messages::default();
        messages.add("one\n");
        messages.add("two\u{7}");
        messages.add("");
        assert_eq!(messages.take(), "one; two ");
        assert_eq!(messages.take(), "it does not say why");
        messages.add(&"x".repeat(MOST));
        messages.add("short");
        assert_eq!(messages.take(), "short", "one that does not fit is dropped");
    }
}
