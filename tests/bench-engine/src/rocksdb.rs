//! RocksDB through the C interface of the distribution's library, without its write-ahead log:
//! the engine beside it has none either.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::store::{Key, Settings, Store};

const LZ4: c_int = 4;
const LEVEL0_TABLES: c_int = 4;

/// A pointer the library gave.
type Handle = *mut c_void;

#[link(name = "rocksdb")]
unsafe extern "C" {
    fn rocksdb_options_create() -> Handle;
    fn rocksdb_options_destroy(options: Handle);
    fn rocksdb_options_set_create_if_missing(options: Handle, value: u8);
    fn rocksdb_options_set_write_buffer_size(options: Handle, bytes: usize);
    fn rocksdb_options_set_compression(options: Handle, compression: c_int);
    fn rocksdb_options_set_max_background_jobs(options: Handle, jobs: c_int);
    fn rocksdb_options_set_level_compaction_dynamic_level_bytes(options: Handle, value: u8);
    fn rocksdb_options_set_max_bytes_for_level_base(options: Handle, bytes: u64);
    fn rocksdb_options_set_target_file_size_base(options: Handle, bytes: u64);
    fn rocksdb_options_set_level0_file_num_compaction_trigger(options: Handle, files: c_int);
    fn rocksdb_options_set_block_based_table_factory(options: Handle, table: Handle);
    fn rocksdb_block_based_options_create() -> Handle;
    fn rocksdb_block_based_options_destroy(table: Handle);
    fn rocksdb_block_based_options_set_block_size(table: Handle, bytes: usize);
    fn rocksdb_block_based_options_set_filter_policy(table: Handle, policy: Handle);
    fn rocksdb_block_based_options_set_block_cache(table: Handle, cache: Handle);
    fn rocksdb_filterpolicy_create_bloom_full(bits: f64) -> Handle;
    fn rocksdb_cache_create_lru(bytes: usize) -> Handle;
    fn rocksdb_cache_destroy(cache: Handle);
    fn rocksdb_open(options: Handle, name: *const c_char, error: *mut *mut c_char) -> Handle;
    fn rocksdb_close(db: Handle);
    fn rocksdb_writeoptions_create() -> Handle;
    fn rocksdb_writeoptions_destroy(options: Handle);
    fn rocksdb_writeoptions_disable_WAL(options: Handle, value: c_int);
    fn rocksdb_readoptions_create() -> Handle;
    fn rocksdb_readoptions_destroy(options: Handle);
    fn rocksdb_writebatch_create() -> Handle;
    fn rocksdb_writebatch_destroy(batch: Handle);
    fn rocksdb_writebatch_clear(batch: Handle);
    fn rocksdb_writebatch_put(
        batch: Handle,
        key: *const u8,
        key_bytes: usize,
        value: *const u8,
        value_bytes: usize,
    );
    fn rocksdb_write(db: Handle, options: Handle, batch: Handle, error: *mut *mut c_char);
    fn rocksdb_get_pinned(
        db: Handle,
        options: Handle,
        key: *const u8,
        key_bytes: usize,
        error: *mut *mut c_char,
    ) -> Handle;
    fn rocksdb_pinnableslice_value(slice: Handle, bytes: *mut usize) -> *const c_char;
    fn rocksdb_pinnableslice_destroy(slice: Handle);
    fn rocksdb_create_iterator(db: Handle, options: Handle) -> Handle;
    fn rocksdb_iter_destroy(iterator: Handle);
    fn rocksdb_iter_seek(iterator: Handle, key: *const u8, key_bytes: usize);
    fn rocksdb_iter_valid(iterator: Handle) -> u8;
    fn rocksdb_iter_next(iterator: Handle);
    fn rocksdb_iter_key(iterator: Handle, bytes: *mut usize) -> *const u8;
    fn rocksdb_iter_value(iterator: Handle, bytes: *mut usize) -> *const u8;
    fn rocksdb_property_value(db: Handle, name: *const c_char) -> *mut c_char;
    fn rocksdb_property_int(db: Handle, name: *const c_char, value: *mut u64) -> c_int;
    fn rocksdb_flush(db: Handle, options: Handle, error: *mut *mut c_char);
    fn rocksdb_flushoptions_create() -> Handle;
    fn rocksdb_flushoptions_destroy(options: Handle);
    fn rocksdb_free(memory: *mut c_void);
}

struct RocksDb {
    db: Handle,
    cache: Handle,
    write: Handle,
    read: Handle,
    batch: Handle,
}

pub fn open(dir: &Path, settings: Settings) -> Result<Box<dyn Store>> {
    let name = CString::new(dir.to_str().context("a readable path")?)?;
    // SAFETY: every handle is used as the C interface says and freed once; `set_filter_policy`
    // and the table factory take over what they are given.
    unsafe {
        let cache = rocksdb_cache_create_lru(usize::try_from(settings.cache_bytes)?);
        let table = rocksdb_block_based_options_create();
        rocksdb_block_based_options_set_block_size(table, settings.block_bytes);
        let filter = rocksdb_filterpolicy_create_bloom_full(settings.filter_bits as f64);
        rocksdb_block_based_options_set_filter_policy(table, filter);
        rocksdb_block_based_options_set_block_cache(table, cache);
        let options = rocksdb_options_create();
        rocksdb_options_set_create_if_missing(options, 1);
        rocksdb_options_set_write_buffer_size(options, usize::try_from(settings.memtable_bytes)?);
        rocksdb_options_set_compression(options, LZ4);
        rocksdb_options_set_max_background_jobs(options, 2);
        rocksdb_options_set_level_compaction_dynamic_level_bytes(options, 1);
        rocksdb_options_set_max_bytes_for_level_base(options, settings.level_base_bytes);
        rocksdb_options_set_target_file_size_base(options, settings.table_bytes);
        rocksdb_options_set_level0_file_num_compaction_trigger(options, LEVEL0_TABLES);
        rocksdb_options_set_block_based_table_factory(options, table);
        let mut error = ptr::null_mut();
        let db = rocksdb_open(options, name.as_ptr(), &mut error);
        rocksdb_options_destroy(options);
        rocksdb_block_based_options_destroy(table);
        check(error)?;
        let write = rocksdb_writeoptions_create();
        rocksdb_writeoptions_disable_WAL(write, 1);
        let (read, batch) = (rocksdb_readoptions_create(), rocksdb_writebatch_create());
        Ok(Box::new(RocksDb { db, cache, write, read, batch }))
    }
}

fn check(error: *mut c_char) -> Result<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: an error is a C string that belongs to the caller.
    unsafe {
        let text = CStr::from_ptr(error).to_string_lossy().into_owned();
        rocksdb_free(error.cast());
        bail!("rocksdb: {text}")
    }
}

impl RocksDb {
    fn property(&self, name: &CStr) -> u64 {
        let mut value = 0;
        // SAFETY: the handle is open, the name a C string.
        unsafe { rocksdb_property_int(self.db, name.as_ptr(), &mut value) };
        value
    }
}

impl Store for RocksDb {
    fn write(&mut self, pairs: &[(Key, &[u8])]) -> Result<()> {
        let mut error = ptr::null_mut();
        // SAFETY: the library copies keys and values before it returns.
        unsafe {
            rocksdb_writebatch_clear(self.batch);
            for (key, value) in pairs {
                let (k, v) = (key.as_ptr(), value.as_ptr());
                rocksdb_writebatch_put(self.batch, k, key.len(), v, value.len());
            }
            rocksdb_write(self.db, self.write, self.batch, &mut error);
        }
        check(error)
    }

    fn get(&self, key: &Key) -> Result<Option<usize>> {
        let mut error = ptr::null_mut();
        // SAFETY: the slice is asked while it lives and destroyed once.
        unsafe {
            let slice = rocksdb_get_pinned(self.db, self.read, key.as_ptr(), key.len(), &mut error);
            check(error)?;
            if slice.is_null() {
                return Ok(None);
            }
            let mut bytes = 0;
            rocksdb_pinnableslice_value(slice, &mut bytes);
            rocksdb_pinnableslice_destroy(slice);
            Ok(Some(bytes))
        }
    }

    fn scan(&self, from: &Key, count: usize) -> Result<usize> {
        let (mut total, mut bytes) = (0, 0);
        // SAFETY: key and value are asked only while the iterator stands at a record.
        unsafe {
            let iterator = rocksdb_create_iterator(self.db, self.read);
            rocksdb_iter_seek(iterator, from.as_ptr(), from.len());
            for _ in 0..count {
                if rocksdb_iter_valid(iterator) == 0 {
                    break;
                }
                std::hint::black_box(rocksdb_iter_key(iterator, &mut bytes));
                std::hint::black_box(rocksdb_iter_value(iterator, &mut bytes));
                total += bytes;
                rocksdb_iter_next(iterator);
            }
            rocksdb_iter_destroy(iterator);
        }
        Ok(total)
    }

    fn settle(&mut self) -> Result<()> {
        let mut error = ptr::null_mut();
        // SAFETY: the options are freed once, after their use.
        unsafe {
            let options = rocksdb_flushoptions_create();
            rocksdb_flush(self.db, options, &mut error);
            rocksdb_flushoptions_destroy(options);
        }
        check(error)?;
        let mut quiet = 0;
        while quiet < 5 {
            thread::sleep(Duration::from_millis(2));
            let busy = [
                c"rocksdb.mem-table-flush-pending",
                c"rocksdb.num-running-flushes",
                c"rocksdb.compaction-pending",
                c"rocksdb.num-running-compactions",
            ];
            let is_idle = busy.iter().all(|name| self.property(name) == 0);
            quiet = if is_idle { quiet + 1 } else { 0 };
        }
        Ok(())
    }

    fn level0_tables(&self) -> u64 {
        // A property that is no plain number.
        // SAFETY: the value is a C string that belongs to the caller, or null.
        unsafe {
            let name = c"rocksdb.num-files-at-level0";
            let text = rocksdb_property_value(self.db, name.as_ptr());
            if text.is_null() {
                return 0;
            }
            let tables = CStr::from_ptr(text).to_string_lossy().parse().unwrap_or(0);
            rocksdb_free(text.cast());
            tables
        }
    }

    fn resident_bytes(&self) -> Option<u64> {
        Some(self.property(c"rocksdb.estimate-table-readers-mem"))
    }
}

impl Drop for RocksDb {
    fn drop(&mut self) {
        // SAFETY: the last use of every handle.
        unsafe {
            rocksdb_writebatch_destroy(self.batch);
            rocksdb_writeoptions_destroy(self.write);
            rocksdb_readoptions_destroy(self.read);
            rocksdb_close(self.db);
            rocksdb_cache_destroy(self.cache);
        }
    }
}
