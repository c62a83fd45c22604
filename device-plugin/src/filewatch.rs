//! Tells tasks that something changed below a folder (inotify). A hint only: whoever waits here
//! also looks by itself now and then, for a watch may be lost.

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

type Hooks = Arc<Mutex<Vec<(PathBuf, Arc<Notify>)>>>;

/// Watches folders, each for one task.
#[derive(Clone)]
pub struct FileWatch {
    watcher: Arc<Mutex<Option<RecommendedWatcher>>>,
    hooks: Hooks,
}

impl FileWatch {
    /// Without inotify it watches nothing, says so once, and the slow looks remain.
    #[must_use]
    pub fn new() -> Self {
        let hooks = Hooks::default();
        let seen = hooks.clone();
        let watcher = notify::recommended_watcher(move |event| poke(&seen, &event))
            .inspect_err(|error| {
                tracing::warn!(%error, "no inotify (raise fs.inotify.max_user_instances): changes are seen later");
            })
            .ok();
        Self {
            watcher: Arc::new(Mutex::new(watcher)),
            hooks,
        }
    }

    /// Wakes `task` on changes in `folder` from now on, also when it was watched before and has
    /// been made anew since. Does nothing for a folder that does not exist.
    pub fn arm(&self, folder: PathBuf, task: &Arc<Notify>) {
        if !folder.is_dir() {
            return;
        }
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watcher) = watcher.as_mut()
            && let Err(error) = watcher.watch(&folder, RecursiveMode::NonRecursive)
        {
            tracing::debug!(%error, "cannot watch {}", folder.display());
        }
        let mut hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        hooks.retain(|(other, hook)| {
            let same = *other == folder && Arc::ptr_eq(hook, task);
            !same && Arc::strong_count(hook) > 1
        });
        hooks.push((folder, task.clone()));
    }
}

impl Default for FileWatch {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for FileWatch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("FileWatch")
    }
}

fn poke(hooks: &Hooks, event: &notify::Result<Event>) {
    let hooks = hooks.lock().unwrap_or_else(PoisonError::into_inner);
    match event {
        // Reads are events too; to look after each of our own looks would never end.
        Ok(event) if !is_change(event.kind) => {}
        Ok(event) if !event.need_rescan() => {
            let touched = |folder: &PathBuf| event.paths.iter().any(|path| path.starts_with(folder));
            hooks
                .iter()
                .filter(|(folder, _)| touched(folder))
                .for_each(|(_, task)| task.notify_one());
        }
        _ => hooks.iter().for_each(|(_, task)| task.notify_one()),
    }
}

fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_write_wakes_the_task_and_a_read_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        std::fs::write(&file, "1").unwrap();
        let watch = FileWatch::new();
        let task = Arc::new(Notify::new());
        watch.arm(dir.path().to_owned(), &task);
        std::fs::read(&file).unwrap();
        assert!(
            tokio::time::timeout(Duration::from_millis(300), task.notified())
                .await
                .is_err()
        );
        std::fs::write(&file, "2").unwrap();
        tokio::time::timeout(Duration::from_secs(20), task.notified())
            .await
            .unwrap();
    }
}
