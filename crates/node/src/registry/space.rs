//! The watch over free disk space: read-only before the disk is full, and back without a restart.

use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_runtime::Stop;

use super::Registry;
use crate::config::DiskSection;

impl Registry {
    /// Watches free space until the node stops.
    pub async fn watch_space(self, section: DiskSection, stop: Stop) {
        let mut beat = holdfast_runtime::interval(Duration::from_millis(section.check_interval_ms));
        loop {
            self.look_at_space(&section).await;
            if stop.or(beat.tick()).await.is_none() {
                return;
            }
        }
    }

    async fn look_at_space(&self, section: &DiskSection) {
        let (disk, dir) = (self.inner.deps.doors.disk.clone(), self.inner.data_dir.clone());
        let Ok(space) = self.inner.deps.pool.run(move || disk.space(&dir)).await else { return };
        let available = match space {
            Ok(space) => space.available_bytes,
            Err(error) => {
                tracing::warn!(%error, "free disk space is unknown");
                return;
            }
        };
        let room = available.saturating_sub(section.read_only_below_bytes);
        self.inner.room_bytes.store(room, Ordering::Relaxed);
        let was_full = self.is_disk_full();
        let is_full = is_full(was_full, available, section);
        if is_full == was_full {
            return;
        }
        self.inner.is_disk_full.store(is_full, Ordering::Release);
        self.inner.admission.refuse_growth(is_full);
        if is_full {
            tracing::error!(available, "the disk is almost full: only deletes are accepted");
        } else {
            tracing::info!(available, "there is disk space again: writes are accepted");
        }
    }
}

/// Between the two thresholds things stay as they are.
fn is_full(was_full: bool, available: u64, section: &DiskSection) -> bool {
    if was_full {
        available < section.recover_above_bytes
    } else {
        available < section.read_only_below_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_needs_the_higher_threshold_to_recover() {
        let section = DiskSection {
            read_only_below_bytes: 100,
            recover_above_bytes: 200,
            ..DiskSection::default()
        };
        assert!(!is_full(false, 100, &section));
        assert!(is_full(false, 99, &section));
        assert!(is_full(true, 199, &section));
        assert!(!is_full(true, 200, &section));
    }
}
