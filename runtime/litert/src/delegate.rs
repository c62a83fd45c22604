//! Delegates: a vendor's library that takes over parts of a graph.

use crate::error::{Error, words};
use crate::messages::Messages;
use crate::raw::{self, DELEGATE_CREATE, DELEGATE_DESTROY, DelegateCreate, DelegateDestroy};
use std::ffi::{CStr, CString, c_char};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;

/// A delegate's library, with the options for every delegate that is made from it. Clones share it.
#[derive(Clone)]
pub struct Delegate {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    keys: Vec<CString>,
    values: Vec<CString>,
    create: DelegateCreate,
    destroy: DelegateDestroy,
}

impl std::fmt::Debug for Delegate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delegate")
            .field("path", &self.shared.path)
            .field("keys", &self.shared.keys)
            .field("values", &self.shared.values)
            .finish_non_exhaustive()
    }
}

thread_local! {
    /// Where [`report`] puts what a delegate says: its callback has no user data, but comes on the calling thread.
    static SAID: Messages = Messages::default();
}

unsafe extern "C" fn report(text: *const c_char) {
    if text.is_null() {
        return;
    }
    // SAFETY: a delegate passes a text that ends with 0.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    // Where the thread is ending there is nobody left to tell.
    let _ = SAID.try_with(|said| said.add(&text));
}

impl Delegate {
    /// Loads a delegate's library, which stays loaded until the process ends.
    ///
    /// # Errors
    /// When it cannot be loaded, exports no delegate, or an option holds a 0 byte.
    pub fn open(path: &Path, options: &[(String, String)]) -> Result<Self, Error> {
        let wrong = |problem: String| Error::Delegate {
            path: path.to_owned(),
            problem,
        };
        let text = |text: &String| {
            CString::new(text.as_str()).map_err(|_| wrong(format!("option {text:?} holds a 0 byte")))
        };
        let keys = options
            .iter()
            .map(|(key, _)| text(key))
            .collect::<Result<_, _>>()?;
        let values = options
            .iter()
            .map(|(_, value)| text(value))
            .collect::<Result<_, _>>()?;
        // SAFETY: loading runs the library's initialisers: whoever names it decides that this process runs it.
        let library = unsafe { libloading::Library::new(path) };
        let library = library.map_err(|error| wrong(words(&error)))?;
        // Never unloaded, like the C library itself.
        let library = ManuallyDrop::new(library);
        let missing =
            |error: libloading::Error| wrong(format!("it is no LiteRT delegate: {}", words(&error)));
        // SAFETY: by convention of external delegates a function of this name has this type.
        let create = *unsafe { library.get::<DelegateCreate>(DELEGATE_CREATE) }.map_err(missing)?;
        // SAFETY: as above.
        let destroy = *unsafe { library.get::<DelegateDestroy>(DELEGATE_DESTROY) }.map_err(missing)?;
        Ok(Self {
            shared: Arc::new(Shared {
                path: path.to_owned(),
                keys,
                values,
                create,
                destroy,
            }),
        })
    }

    /// Where its library is.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Makes one delegate, for one interpreter.
    pub(crate) fn make(&self) -> Result<Made, Error> {
        let shared = &self.shared;
        let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
        let (keys, values) = (pointers(&shared.keys), pointers(&shared.values));
        // What an earlier call on this thread said is not this one's.
        SAID.with(Messages::take);
        // SAFETY: as many keys and values as are announced, each ends with 0; all live through the call.
        let raw = unsafe { (shared.create)(keys.as_ptr(), values.as_ptr(), keys.len(), Some(report)) };
        let raw = NonNull::new(raw).ok_or_else(|| Error::Delegate {
            path: shared.path.clone(),
            problem: format!("it cannot be made: {}", SAID.with(Messages::take)),
        })?;
        Ok(Made {
            raw,
            from: self.clone(),
        })
    }
}

/// One delegate. It must outlive the interpreter that uses it.
pub(crate) struct Made {
    pub raw: NonNull<raw::Delegate>,
    from: Delegate,
}

impl Drop for Made {
    fn drop(&mut self) {
        // SAFETY: it was made by the same library, and is given back once.
        unsafe { (self.from.shared.destroy)(self.raw.as_ptr()) };
    }
}
