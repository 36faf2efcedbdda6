/* A PKCS#11 module that passes every call on to SoftHSM2 and, when told, does what bad modules do.
 *
 * It is told by the file that FAULT_FILE names, which is looked at before every call: lines of
 *
 *     FUNCTION SKIP TIMES ACTION [VALUE]
 *
 * such as `C_Sign 3 1 return 0x30`: of the calls of a function from now on, the first SKIP are left alone, and with the next TIMES
 * something is done (0: with all). What was counted lies behind the lines in the same file, which all processes map that load the
 * module: so they count on where another one ended, and begin anew when another file is put in the place of the first.
 *
 * return RV     it is not called, and returns RV
 * after RV      it is called, and returns RV all the same
 * delay MS      it is called after that time
 * block         it does not return before the file changes
 * crash         the process dies of SIGSEGV
 * exit          the process ends
 * logout        the login is forgotten before it is called
 * close         all sessions are closed before it is called
 * hide          C_FindObjects finds nothing
 * other         C_SignInit is called with the key of another call before
 * corrupt       C_Sign returns another signature
 * flags FLAGS   C_GetTokenInfo states these flags too
 * renumber N    slots have other numbers (FUNCTION is *, and it is done with all calls)
 *
 * It tells of what was called in a file beside that one, with `.calls` behind its name: a `struct calls` for each function, and one
 * named `sessions` with how many are open.
 *
 * All functions of PKCS#11 take up to nine words, and return one: so one kind of wrapper does for all of them. */

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef unsigned long word;
typedef word (*function)(word, word, word, word, word, word, word, word, word);

/* The functions of PKCS#11 2.40 in the order of CK_FUNCTION_LIST. */
#define FUNCTIONS(F) \
    F(Initialize) F(Finalize) F(GetInfo) F(GetFunctionList) F(GetSlotList) F(GetSlotInfo) F(GetTokenInfo) \
    F(GetMechanismList) F(GetMechanismInfo) F(InitToken) F(InitPIN) F(SetPIN) F(OpenSession) F(CloseSession) \
    F(CloseAllSessions) F(GetSessionInfo) F(GetOperationState) F(SetOperationState) F(Login) F(Logout) \
    F(CreateObject) F(CopyObject) F(DestroyObject) F(GetObjectSize) F(GetAttributeValue) F(SetAttributeValue) \
    F(FindObjectsInit) F(FindObjects) F(FindObjectsFinal) F(EncryptInit) F(Encrypt) F(EncryptUpdate) \
    F(EncryptFinal) F(DecryptInit) F(Decrypt) F(DecryptUpdate) F(DecryptFinal) F(DigestInit) F(Digest) \
    F(DigestUpdate) F(DigestKey) F(DigestFinal) F(SignInit) F(Sign) F(SignUpdate) F(SignFinal) \
    F(SignRecoverInit) F(SignRecover) F(VerifyInit) F(Verify) F(VerifyUpdate) F(VerifyFinal) \
    F(VerifyRecoverInit) F(VerifyRecover) F(DigestEncryptUpdate) F(DecryptDigestUpdate) F(SignEncryptUpdate) \
    F(DecryptVerifyUpdate) F(GenerateKey) F(GenerateKeyPair) F(WrapKey) F(UnwrapKey) F(DeriveKey) \
    F(SeedRandom) F(GenerateRandom) F(GetFunctionStatus) F(CancelFunction) F(WaitForSlotEvent)

#define NUMBER(name) at_##name,
enum { FUNCTIONS(NUMBER) COUNT };
#define NAME(name) "C_" #name,
static const char *const names[] = {FUNCTIONS(NAME)};

struct list {
    unsigned char version[2];
    function functions[COUNT];
};

struct order {
    int function;
    long skip, times;
    char action[16];
    word value;
    long *seen;
};

struct calls {
    char name[32];
    long called, succeeded;
};

/* The file of orders: lines, and for each how many calls it has seen. */
struct order_file {
    char lines[4096];
    long seen[32];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct list *real, ours;
static struct order orders[32];
static int order_count;
static struct order_file *file;
static ino_t read_last;
static long readings;
static word keys[2];
static word renumbering;
/* One for each function, and one for sessions. */
static struct calls *calls;

/* Maps a file so that all processes see the same. */
static void *map(const char *path, int flags, size_t size) {
    int descriptor = open(path, flags | O_RDWR | O_CLOEXEC, 0600);
    if (descriptor < 0)
        return NULL;
    void *mapped = MAP_FAILED;
    struct stat now;
    if (fstat(descriptor, &now) == 0 && (now.st_size == (off_t)size || ftruncate(descriptor, size) == 0))
        mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    return mapped == MAP_FAILED ? NULL : mapped;
}

static void map_calls(void) {
    char path[4096];
    if (!getenv("FAULT_FILE"))
        return;
    snprintf(path, sizeof path, "%s.calls", getenv("FAULT_FILE"));
    calls = map(path, O_CREAT, (COUNT + 1) * sizeof *calls);
    for (int i = 0; calls && i <= COUNT; i++)
        strcpy(calls[i].name, i < COUNT ? names[i] : "sessions");
}

/* Counts a call that returned. A session lives as long as the module is initialised, at most. */
static void count(int number, word returned) {
    if (!calls)
        return;
    long *sessions = &calls[COUNT].succeeded;
    __atomic_add_fetch(&calls[number].called, 1, __ATOMIC_SEQ_CST);
    if (returned != 0)
        return;
    __atomic_add_fetch(&calls[number].succeeded, 1, __ATOMIC_SEQ_CST);
    if (number == at_OpenSession)
        __atomic_add_fetch(sessions, 1, __ATOMIC_SEQ_CST);
    if (number == at_CloseSession)
        __atomic_sub_fetch(sessions, 1, __ATOMIC_SEQ_CST);
    if (number == at_Initialize || number == at_Finalize || number == at_CloseAllSessions)
        __atomic_store_n(sessions, 0, __ATOMIC_SEQ_CST);
}

/* Reads the file again if it is another one. Called with the lock held. */
static void read_orders(void) {
    const char *path = getenv("FAULT_FILE");
    struct stat now;
    int found = path && stat(path, &now) == 0;
    /* As long as it is mapped, no other file has its number. */
    if (found && file && now.st_ino == read_last)
        return;
    order_count = 0;
    renumbering = 0;
    if (file)
        munmap(file, sizeof *file);
    file = found ? map(path, 0, sizeof *file) : NULL;
    if (!file)
        return;
    read_last = now.st_ino;
    readings++;
    char lines[sizeof file->lines + 1] = {0}, name[64], value[32], *rest = lines;
    memcpy(lines, file->lines, sizeof file->lines);
    for (char *line; order_count < 32 && (line = strsep(&rest, "\n"));) {
        struct order *order = &orders[order_count];
        memset(order, 0, sizeof *order);
        value[0] = 0;
        if (sscanf(line, "%63s %ld %ld %15s %31s", name, &order->skip, &order->times, order->action, value) < 4)
            continue;
        order->value = strtoul(value, NULL, 0);
        order->seen = &file->seen[order_count];
        if (strcmp(order->action, "renumber") == 0)
            renumbering = order->value;
        for (order->function = 0; order->function < COUNT; order->function++)
            if (strcmp(name, names[order->function]) == 0)
                break;
        order_count += order->function < COUNT;
    }
}

/* Returns what is to be done with a call, if anything is. */
static int find_order(int number, struct order *found) {
    int is_one = 0;
    pthread_mutex_lock(&lock);
    read_orders();
    for (int i = 0; i < order_count && !is_one; i++) {
        struct order *order = &orders[i];
        if (order->function != number)
            continue;
        long seen = __atomic_fetch_add(order->seen, 1, __ATOMIC_SEQ_CST);
        is_one = seen >= order->skip && (order->times == 0 || seen < order->skip + order->times);
        if (is_one)
            *found = *order;
    }
    pthread_mutex_unlock(&lock);
    return is_one;
}

/* Waits until there are other orders. */
static void wait_for_others(void) {
    long mine, now;
    pthread_mutex_lock(&lock);
    mine = now = readings;
    pthread_mutex_unlock(&lock);
    while (mine == now) {
        usleep(20000);
        pthread_mutex_lock(&lock);
        read_orders();
        now = readings;
        pthread_mutex_unlock(&lock);
    }
}

/* Tells whether the first word of a function is the number of a slot. */
static int is_of_slot(int number) {
    return number == at_GetSlotInfo || number == at_GetTokenInfo || number == at_GetMechanismList ||
           number == at_GetMechanismInfo || number == at_InitToken || number == at_OpenSession ||
           number == at_CloseAllSessions;
}

static word do_call(int number, word a, word b, word c, word d, word e, word f, word g, word h, word i) {
    struct order order;
    function pass_on = real->functions[number];
    int told = find_order(number, &order);
    if (is_of_slot(number))
        a ^= renumbering;
#define IS(name) (told && strcmp(order.action, name) == 0)
    if (IS("return"))
        return order.value;
    if (IS("delay"))
        usleep(order.value * 1000);
    if (IS("block"))
        wait_for_others();
    if (IS("crash"))
        *(volatile int *)8 = 0;
    if (IS("exit"))
        _exit(1);
    if (IS("logout"))
        real->functions[at_Logout](a, 0, 0, 0, 0, 0, 0, 0, 0);
    if (IS("close")) {
        word info[4];
        if (real->functions[at_GetSessionInfo](a, (word)info, 0, 0, 0, 0, 0, 0, 0) == 0)
            real->functions[at_CloseAllSessions](info[0], 0, 0, 0, 0, 0, 0, 0, 0);
    }
    if (number == at_SignInit) {
        if (IS("other"))
            c = keys[0] == c ? keys[1] : keys[0];
        else if (keys[0] != c) {
            keys[1] = keys[0];
            keys[0] = c;
        }
    }
    word returned = pass_on(a, b, c, d, e, f, g, h, i);
    if (number == at_GetSlotList && returned == 0 && b)
        for (word slot = 0; slot < *(word *)c; slot++)
            ((word *)b)[slot] ^= renumbering;
    if (IS("hide") && number == at_FindObjects)
        *(word *)d = 0;
    if (IS("corrupt") && number == at_Sign && d)
        ((unsigned char *)d)[*(word *)e / 2] ^= 1;
    if (IS("flags") && number == at_GetTokenInfo && returned == 0)
        ((word *)b)[12] |= order.value; /* after 96 bytes of text */
    return IS("after") ? order.value : returned;
}

static word call(int number, word a, word b, word c, word d, word e, word f, word g, word h, word i) {
    word returned = do_call(number, a, b, c, d, e, f, g, h, i);
    count(number, returned);
    return returned;
}

#define WRAPPER(name) \
    static word our_##name(word a, word b, word c, word d, word e, word f, word g, word h, word i) { \
        return call(at_##name, a, b, c, d, e, f, g, h, i); \
    }
FUNCTIONS(WRAPPER)

#define ENTRY(name) our_##name,
static const function wrappers[] = {FUNCTIONS(ENTRY)};

word C_GetFunctionList(struct list **list) {
    if (!real) {
        void *module = dlopen(MODULE, RTLD_NOW | RTLD_LOCAL);
        word (*get)(struct list **) = module ? (word(*)(struct list **))dlsym(module, "C_GetFunctionList") : NULL;
        if (!get || get(&real) != 0)
            return 5; /* CKR_GENERAL_ERROR */
        map_calls();
        memcpy(ours.version, real->version, sizeof ours.version);
        memcpy(ours.functions, wrappers, sizeof wrappers);
    }
    *list = &ours;
    return 0;
}
